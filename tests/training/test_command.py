"""`llm-expo train` as a user gives it."""

import json
from pathlib import Path

import pytest

from llm_expo.cli import main
from llm_expo.terminal.training import training_watched
from llm_expo.training.events import Stepped
from llm_expo.training.recipe import AlgorithmName, Lora, Recipe
from llm_expo.training.run import next_step


@pytest.fixture
def recipe(theta0: Path, pairs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'model = "{theta0}"\ndata = "{pairs}"\nalgorithm = "simpo"\n'
        'learning_rate = 1e-2\nbatch_size = 8\nprecision = "float32"\nsave_at = [2]\n'
    )
    return path


def test_from_recipe_to_models(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{tmp_path}/run/model: 5 steps; go on with: llm-expo search {tmp_path}/run/model ..."
    ]
    assert said.err.splitlines() == [
        f"{tmp_path}/run/step-2: the model after step 2",
        f"{tmp_path}/run/model: the model after step 5",
    ]
    assert main(["compare", str(tmp_path / "run/step-2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["norm_relative"] > 0


@pytest.mark.parametrize(
    ("algorithm", "lora", "words"),
    [
        ("dpo", None, "llm-expo search run/model ..."),
        ("reward", None, "llm-expo search ... --scorer reward-model:run/model"),
        ("reward", Lora(), "llm-expo search ... --scorer reward-model:run/model, once PEFT has merged the adapter"),
        ("sft", None, "llm-expo train, with model = run/model in a recipe of preferences"),
        ("sft", Lora(), "llm-expo apply run/model --alpha 0 --merge --out THETA0, then llm-expo train"),
    ],
)
def test_the_next_step_fits_what_was_trained(algorithm: AlgorithmName, lora: Lora | None, words: str) -> None:
    asked = Recipe(model="m", data="d", algorithm=algorithm, learning_rate=1e-5, batch_size=8, lora=lora)
    assert next_step(asked, Path("run/model")).startswith(words)


def test_a_log_is_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [Stepped(step, 30, 0.5, 90.0) for step in (1, 2)]
    for every, lines in ((0.0, [f"training: step {n}/30, loss 0.5000, 0:01:30 left" for n in (1, 2)]), (60.0, [])):
        with training_watched(every) as watch:
            for event in steps:
                watch(event)
        assert capsys.readouterr().err.splitlines() == lines


def test_a_plan_trains_nothing(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "40 pairs, random" in said
    assert "5 of 5, batch 8 = 1 processes x 8 x 1" in said
    assert main(["train", str(recipe), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"]["saves"] == [2, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml"]


def test_how_models_are_kept_can_be_said_on_the_command_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--save", "difference", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][-1] == f"{tmp_path}/run/model"
    assert (tmp_path / "run/model/difference.safetensors").exists()


def test_where_to_is_asked_for(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(recipe)])
    assert "--out is required, unless with --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('algorithm = "dpoo"', 'algorithm is "dpoo": input should be'),
        ("learning_rat = 1e-3", "unknown key learning_rat; did you mean learning_rate?"),
        ("batch_size = 0", "batch_size is 0: input should be greater than or equal to 1"),
        ('optimizer = "lion"', "input should be 'adamw', 'adagrad' or 'rmsprop'"),
        ('data = "nowhere.jsonl"', "nowhere.jsonl: no such file"),
        ('model = "nowhere"', "nowhere: no such folder"),
        ("micro_batch_size = 3", "micro_batch_size = 3 does not divide batch_size = 8"),
        ("batch_size = 80", "batch_size = 80 is more than the 40 records that there are"),
        ("[coefficients]\nbetta = 2.0", "unknown coefficient betta; did you mean beta?"),
        ("[trl]\nlearning_rate = 1.0", "trl.learning_rate: is set by the recipe itself"),
        ("seed = ", "not TOML"),
        ('model = ""', "model is empty"),
        ('model = "~nobody-at-all/x"', "~nobody-at-all/x: no such folder"),
        ('data = "~nobody-at-all/x"', "~nobody-at-all/x: no such file"),
        ("epochs = 1e300", "epochs = 1e+300 makes more than 1,000,000,000 steps"),
    ],
)
def test_a_bad_recipe_is_told_in_one_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    key = line.split(" =")[0]
    kept = [each for each in recipe.read_text().splitlines() if not each.startswith(f"{key} =")]
    recipe.write_text("\n".join([*kept, line]) + "\n")
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error, error
    assert not (tmp_path / "run/model").exists()
