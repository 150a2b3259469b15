"""The plan of a run: exact steps, stated estimates, and what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_expo.errors import RecipeError
from llm_expo.training import plan as plan_module
from llm_expo.training.plan import Plan, Steps, make_plan, plan_lines, plan_steps
from llm_expo.training.recipe import Lora, Recipe

RECIPE = Recipe(model="org/sft", data="hub:org/pairs:train", algorithm="dpo", learning_rate=5e-7, batch_size=128)
ULTRAFEEDBACK = 61_135


@pytest.fixture(scope="module")
def recipe(theta0: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a tiny model and 40 pairs of 2 x 7 tokens."""
    folder = tmp_path_factory.mktemp("plan")
    words = ("sun", "sea", "cat", "dog", "red", "blue", "old", "new")
    pairs = [{"prompt": f"the {one}", "chosen": two, "rejected": "tree"} for one in words for two in words[:5]]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return replace(RECIPE, model=str(theta0), data=str(folder / "pairs.jsonl"), batch_size=8, micro_batch_size=2)


def test_steps_of_the_papers_run():
    """61,135 pairs by 128 are the 478 steps that the paper tells of."""
    assert plan_steps(replace(RECIPE, micro_batch_size=8), ULTRAFEEDBACK, 8) == Steps(
        schedule=478, warmup=48, trained=478, saves=(478,), resume_every=48, micro_batch=8, accumulation=2
    )
    prefix = plan_steps(replace(RECIPE, fraction=0.2, save_at=[0.1, 3]), ULTRAFEEDBACK)
    assert (prefix.schedule, prefix.trained, prefix.warmup, prefix.saves) == (478, 96, 48, (3, 48, 96))
    own = plan_steps(replace(RECIPE, fraction=0.2, fraction_of="schedule", save_at=[0.5, 1.0]), ULTRAFEEDBACK)
    assert (own.schedule, own.trained, own.warmup, own.saves) == (96, 96, 10, (48, 96))


@pytest.mark.parametrize(
    ("settings", "records", "schedule", "trained"),
    [
        ({"epochs": 2.0}, 1000, 16, 16),  # each epoch ends with a smaller batch
        ({"epochs": 0.5}, 1000, 4, 4),
        ({"epochs": 0.1}, 30 * 128, 3, 3),
        ({"steps": 100}, 1000, 100, 100),
        ({"steps": 100, "fraction": 0.1}, None, 100, 10),
        ({"warmup": 0.0}, 128, 1, 1),
    ],
)
def test_lengths_of_a_run(settings, records, schedule, trained):
    steps = plan_steps(replace(RECIPE, **settings), records)
    assert (steps.schedule, steps.trained) == (schedule, trained)


def test_steps_that_the_records_decide():
    assert plan_steps(RECIPE, None) is None


def test_warmup_in_steps_and_in_shares():
    assert [plan_steps(replace(RECIPE, steps=75, warmup=each), None).warmup for each in (0.0, 0.1, 1.0, 7.0)] == [
        0,
        8,
        1,
        7,
    ]


@pytest.mark.parametrize(
    ("settings", "records", "processes", "words"),
    [
        ({}, 1000, 3, "batch_size = 128 cannot be shared by 3 processes"),
        (
            {"micro_batch_size": 32},
            1000,
            8,
            "micro_batch_size = 32 does not divide 16, the share of each of 8 processes",
        ),
        ({}, 100, 1, "batch_size = 128 is more than the 100 records that there are"),
        ({"fraction": 0.05}, 1000, 1, "fraction = 0.05 of 8 steps leaves none to train"),
        ({"save_at": [9]}, 1000, 1, "save_at: step 9 is beyond the end, 8 of 8 steps are trained"),
        ({"save_at": [5], "fraction": 0.5}, 1000, 1, "save_at: step 5 is beyond the end, 4 of 8 steps are trained"),
        ({"warmup": 9.0}, 1000, 1, "warmup = 9 steps is longer than the schedule, 8 steps"),
        ({"algorithm": "kto", "batch_size": 4}, 1000, 4, "kto needs two replies at once in each process or more"),
        (
            {"algorithm": "kto", "micro_batch_size": 3, "batch_size": 6},
            40,
            1,
            "kto: 40 replies in micro-batches of 3 leave one alone, .* set an even micro_batch_size",
        ),
        ({}, 128, 1, r"the only step that is trained, 1 of 1, is the first of the warm-up, .* set warmup = 0"),
        ({"fraction": 0.13}, 1000, 1, r"the only step that is trained, 1 of 8, is the first of the warm-up"),
        ({"epochs": 1e300}, 1000, 1, r"epochs = 1e\+300 makes more than 1,000,000,000 steps"),
        ({"epochs": 1e308}, 10**9, 1, r"epochs = 1e\+308 makes more than 1,000,000,000 steps"),
        ({"warmup": 1e300}, 1000, 1, r"warmup = 1e\+300 steps is longer than the schedule, 8 steps"),
    ],
)
def test_no_run_is_possible(settings, records, processes, words):
    with pytest.raises(RecipeError, match=words):
        plan_steps(replace(RECIPE, **settings), records, processes)


def test_a_plan(recipe):
    plan = make_plan(replace(recipe, fraction=0.4, too_long="refuse"), processes=2)
    assert (plan.records, plan.dropped, plan.missing) == (40, {}, ())
    assert (plan.steps.schedule, plan.steps.trained, plan.steps.micro_batch, plan.steps.accumulation) == (5, 2, 2, 2)
    assert (plan.tokens_trained, plan.tokens_scored) == (2 * 8 * 14, 40 * 14)
    assert plan.trainable == plan.parameters
    assert plan.memory.weights == plan.memory.gradients == plan.memory.optimizer // 2 == 4 * plan.parameters
    assert plan.memory.activations > 0 and plan.flop_per_second > 0 and plan.seconds > 0


def told(plan: Plan) -> str:
    return "\n".join(f"{what}: {words}" for what, words in plan_lines(plan))


def test_a_plan_in_words(recipe):
    words = told(make_plan(recipe, processes=2))
    for part in (
        f"recipe: dpo of {recipe.model} on {recipe.data}, seed 42",
        "model: all parameters: ",
        "records: 40 pairs, random",
        "steps: 5 of 5, batch 8 = 2 processes x 2 x 2; adamw, 5e-07, cosine, warm-up 1",
        "saves: float32, after 5",
        "tokens: 560 trained, 560 scored once under theta0",
        "memory: ",
        "time: about ",
    ):
        assert part in words


def test_what_the_settings_change(recipe):
    plain, lora, adagrad, checkpointed, simpo, reward = (
        make_plan(replace(recipe, **settings))
        for settings in (
            {},
            {"lora": Lora(rank=2)},
            {"optimizer": "adagrad"},
            {"gradient_checkpointing": True},
            {"algorithm": "simpo"},
            {"algorithm": "reward"},
        )
    )
    layers, hidden, head, inner = 2, 16, 8, 32  # of tiny_pair, whose two heads share one key and value
    by_hand = layers * 2 * ((hidden + hidden) * 2 + (hidden + head) * 2 + (hidden + inner) * 3)
    assert lora.trainable == by_hand and lora.memory.gradients == 4 * by_hand
    assert adagrad.memory.optimizer == plain.memory.optimizer // 2
    assert checkpointed.memory.activations < plain.memory.activations
    assert (simpo.tokens_scored, reward.tokens_scored) == (0, 0)
    assert reward.parameters < plain.parameters, "a head of one output in place of the vocabulary"


def test_the_kl_term_of_kto_takes_as_many_tokens_again(recipe, monkeypatch):
    monkeypatch.setattr(plan_module, "_speed", lambda *_: 1e9)
    kto = make_plan(replace(recipe, algorithm="kto"), processes=2)
    dpo = make_plan(recipe, processes=2)
    assert (kto.tokens_trained, kto.tokens_scored) == (560, 2 * 560) and dpo.tokens_scored == 560
    assert kto.seconds / dpo.seconds == pytest.approx((8 * 560 + 2 * 2 * 560) / (6 * 560 + 2 * 560))
    assert "kl: estimated on 2 processes x 2 replies; with another number of either it is another run" in told(kto)


def test_padding_takes_time(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_module, "_speed", lambda *_: 1e9)
    data = tmp_path / "uneven.jsonl"
    uneven = [{"prompt": "the", "chosen": "sun " * (1 + 4 * odd), "rejected": "tree"} for odd in (0, 1)] * 20
    data.write_text("\n".join(json.dumps({**each, "prompt": f"sea {n}"}) for n, each in enumerate(uneven)))
    one, all_at_once = (
        make_plan(replace(recipe, algorithm="simpo", data=str(data), micro_batch_size=size)) for size in (1, 8)
    )
    assert one.tokens_trained == all_at_once.tokens_trained
    # By itself a pair of 11 and 7 tokens is filled up to 22, among others one of 7 and 7 is, too.
    assert all_at_once.seconds / one.seconds == pytest.approx(2 * 22 / (14 + 22))


@pytest.mark.parametrize(("hidden", "sequences", "length"), [(40, 3, 5), (33, 1, 3000), (64, 300, 10)])
def test_layers_of_any_size_are_timed(recipe, hidden, sequences, length):
    size = plan_module._Size(0, 0, 0, 1, hidden, inner=100)
    assert 1e6 < plan_module._speed(recipe, size, sequences, length) < 1e15


def test_dropped_records_are_told(recipe, tmp_path):
    lines = Path(recipe.data).read_text().splitlines()
    more = json.dumps({"prompt": "the cat " * 20, "chosen": "sun", "rejected": "sea"})
    (tmp_path / "more.jsonl").write_text("\n".join([*lines, lines[0], more]))
    plan = make_plan(replace(recipe, data=str(tmp_path / "more.jsonl"), max_length=20))
    assert plan.records == 40
    assert "dropped 1: stands there before; dropped 1: longer than max_length = 20" in told(plan)


def test_a_plan_without_the_hub():
    plan = make_plan(replace(RECIPE, fraction=0.2, save_at=[0.1]), processes=8)
    assert plan.steps is None and plan.memory is None
    words = told(plan)
    assert "steps: 20% of 1 epochs of pairs by 128; adamw, 5e-07, cosine, warm-up 0.1" in words
    assert "saves: at the end, 0.1" in words
    assert "missing: model = org/sft: configuration or tokenizer cannot be read" in words
    assert "missing: data = hub:org/pairs:train: cannot be loaded" in words


def test_a_plan_without_the_hub_knows_stated_steps():
    words = told(make_plan(replace(RECIPE, steps=478, fraction=0.2), processes=8))
    assert "steps: 96 of 478, batch 128 = 8 processes x 16 x 1" in words


def test_what_no_hub_mends(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"model = \./absent: no such folder, nor an id of the hub"):
        make_plan(replace(recipe, model="./absent"))
    with pytest.raises(RecipeError, match=f"model = {tmp_path}: configuration or tokenizer cannot be read"):
        make_plan(replace(recipe, model=str(tmp_path)))
    with pytest.raises(RecipeError, match="absent.jsonl: no such file"):
        make_plan(replace(RECIPE, data="absent.jsonl"))
    with pytest.raises(RecipeError, match="unknown coefficient bata; did you mean beta"):
        make_plan(replace(recipe, coefficients={"bata": 1.0}))
    with pytest.raises(RecipeError, match="model = .*zzz"):
        make_plan(replace(recipe, lora=Lora(modules=["zzz"])))
