"""Recipes as files: every mistake is told, in one line."""

import dataclasses
from pathlib import Path

import pytest

from llm_expo.errors import RecipeError
from llm_expo.training.recipe import Lora, Recipe, read_recipe

LEAST = 'model = "org/sft"\ndata = "hub:org/pairs:train"\nalgorithm = "dpo"\nlearning_rate = 5e-7\nbatch_size = 16\n'


@pytest.fixture
def recipe(tmp_path: Path):
    """recipe(more) -> the recipe of a file that holds the least, and `more`."""

    def read(more: str = "", least: str = LEAST) -> Recipe:
        (tmp_path / "r.toml").write_text(least + more)
        return read_recipe(tmp_path / "r.toml")

    return read


def test_the_least(recipe):
    found = recipe()
    assert found == Recipe(
        model="org/sft", data="hub:org/pairs:train", algorithm="dpo", learning_rate=5e-7, batch_size=16
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.seed = 1


def test_everything(recipe):
    found = recipe(
        "epochs = 2\nsave_at = [10, 0.5]\nwarmup = 5\nmax_prompt_length = 512\n"
        "[coefficients]\nbeta = 1\n[lora]\nrank = 8\nmodules = ['q_proj']\n"
        "[trl]\nlogging_steps = 1\nreport_to = ['x']\n"
    )
    assert (found.epochs, found.save_at, found.warmup) == (2.0, [10, 0.5], 5.0)
    assert [type(each) for each in found.save_at] == [int, float], "a whole number is a step, 1.0 is everything"
    assert found.coefficients == {"beta": 1.0}
    assert found.lora == Lora(rank=8, modules=["q_proj"])
    assert found.trl == {"logging_steps": 1, "report_to": ["x"]}


def test_paths_are_seen_from_the_recipe(tmp_path, recipe):
    (tmp_path / "theta0").mkdir()
    (tmp_path / "pairs.jsonl").touch()
    found = recipe(least=LEAST.replace("org/sft", "theta0").replace("hub:org/pairs:train", "pairs.jsonl"))
    assert (found.model, found.data) == (str(tmp_path / "theta0"), str(tmp_path / "pairs.jsonl"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("learning_rat = 1", "r.toml: unknown key learning_rat; did you mean learning_rate?"),
        ("zzz = 1", "r.toml: unknown key zzz; there are model, data, algorithm, "),
        ("[lora]\nranks = 1", "unknown key lora.ranks; did you mean lora.rank?"),
        ("seed = '1'", 'seed is "1": input should be a valid integer'),
        ("seed = -1", "seed is -1: input should be greater than or equal to 0"),
        ("optimizer = 'adam'", "optimizer is \"adam\": input should be 'adamw', 'adagrad' or 'rmsprop'"),
        ("fraction = 0", "fraction is 0: input should be greater than 0"),
        ("epochs = nan", "epochs is "),
        ("save_at = [0]", r"r\.toml: save_at\.0 is 0: input should be greater than or equal to 1$"),
        ("gradient_checkpointing = 1", "gradient_checkpointing is 1: input should be a valid boolean"),
        ("seed = ", "r.toml: not TOML"),
        ("steps = 1000000000000000000", "steps is 1000000000000000000: input should be less than or equal to"),
        ("lora.modules = 3", "lora.modules is 3: input should be a valid string"),
        (
            "max_length = 512\nmax_prompt_length = 512",
            "max_prompt_length = 512 leaves no room for a reply in max_length",
        ),
        ("micro_batch_size = 3", "micro_batch_size = 3 does not divide batch_size = 16"),
        ("micro_batch_size = 32", "micro_batch_size = 32 does not divide batch_size = 16"),
        ("steps = 10\nepochs = 2", "steps = 10 and epochs = 2 both say how long; give one of them"),
        ("save_at = [0.5, 1.5]", "save_at = 1.5 is beyond the end: a number with a point is a share of all steps"),
        ("fraction = 0.2\nsave_at = [0.1, 0.4]", "save_at = 0.4 is beyond the end, fraction = 0.2 of the same steps"),
        ("save = 'difference'\n[lora]", 'save = "difference" is for whole models; an adapter is small as it is'),
    ],
)
def test_mistakes(recipe, more, words):
    with pytest.raises(RecipeError, match=words) as caught:
        recipe(more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "more", "words"),
    [
        ("sft", "order = 'length_biased'", "compares two replies, and sft has one"),
        ("kto", "order = 'as_given'", 'order = "as_given" is for pairs; kto takes single replies, in random order'),
        ("kto", "micro_batch_size = 1", "kto needs two replies at once or more"),
        ("reward", "too_long = 'truncate'", 'too_long = "truncate" is not for reward'),
        ("reward", "save = 'difference'", 'save = "difference" is not for reward, whose head theta0 does not have'),
    ],
)
def test_what_an_algorithm_cannot(recipe, algorithm, more, words):
    with pytest.raises(RecipeError, match=words):
        recipe(more, LEAST.replace("dpo", algorithm))


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("org/sft", "", "r.toml: model is empty"),
        ("hub:org/pairs:train", " ", "r.toml: data is empty"),
        ("org/sft", "a\\u0000b", r'r.toml: model is "a\\u0000b": no path holds a NUL'),
    ],
)
def test_places_that_are_none(recipe, theirs, ours, words):
    with pytest.raises(RecipeError, match=words):
        recipe(least=LEAST.replace(theirs, ours))


def test_a_home_of_nobody_stays_as_it_is(recipe):
    assert recipe(least=LEAST.replace("org/sft", "~nobody-at-all/x")).model == "~nobody-at-all/x"


def test_all_mistakes_at_once(recipe):
    with pytest.raises(RecipeError) as caught:
        recipe("sed = 1\nschedule = 3\n", LEAST.replace("batch_size = 16", ""))
    assert str(caught.value).count(";") >= 2
    for words in ("unknown key sed; did you mean seed?", "schedule is 3", "batch_size is missing"):
        assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="absent.toml: no such file"):
        read_recipe(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="Is a directory"):
        read_recipe(tmp_path)
    (tmp_path / "r.toml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="r.toml: not TOML"):
        read_recipe(tmp_path / "r.toml")
