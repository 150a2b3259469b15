"""recipes/: every file is a run that could begin, were there the network, the models and the GPUs."""

import json
import math
from pathlib import Path

import pytest

from llm_expo.checkpoints import Checkpoint
from llm_expo.cli import main
from llm_expo.training.plan import make_plan, plan_lines, plan_steps
from llm_expo.training.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.toml"))
PAIRS = 61_135  # of the split train_prefs


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_a_recipe_has_a_plan(path):
    plan = make_plan(read_recipe(path), processes=8)
    assert [each.split(" = ")[0] for each in plan.missing] == ["model", "data"]
    assert dict(plan_lines(plan))["recipe"].startswith(plan.recipe.algorithm)
    assert all(len(line) <= 120 for line in path.read_text().splitlines())


def test_every_model_of_the_paper_has_one(shared_data):
    tables = json.loads((shared_data / "paper" / "tables.json").read_text())
    zephyr = {f"dpo-{each}" for each in tables["training_recipe_zephyr_7b_dpo"]["fractions_pct"]}
    zephyr |= {f"length-biased-{each['steps_pct']}" for each in tables["table3_data_order"]}
    for each in tables["table4_training_configuration_20pct"][1:]:
        factor, value = each["factor"].replace("_", "-"), each["value"]
        zephyr.add(value.lower() if factor == "optimizer" else f"{factor}-{value:g}".replace("-0", "-"))
    assert {path.stem for path in (FOLDER / "zephyr-7b").iterdir()} == zephyr
    for ours, theirs in (("mistral-7b", "mistral"), ("llama-3-8b", "llama3")):
        table = tables["table6_algorithms"][theirs]
        assert {path.stem for path in (FOLDER / ours).iterdir()} == {row["algorithm"].lower() for row in table["rows"]}
        assert {read_recipe(path).model for path in (FOLDER / ours).iterdir()} == {table["initial"]}


def test_the_settings_that_the_paper_states(shared_data):
    stated = json.loads((shared_data / "paper" / "tables.json").read_text())["training_recipe_zephyr_7b_dpo"]
    assert (stated["batch_size"], stated["learning_rate"], stated["optimizer"]) == (128, 5e-7, "AdamW")
    assert plan_steps(read_recipe(FOLDER / "zephyr-7b" / "dpo-100.toml"), PAIRS).trained == stated["total_steps"]


@pytest.mark.parametrize("path", sorted((FOLDER / "zephyr-7b").iterdir()), ids=lambda path: path.stem)
def test_a_file_of_tables_2_to_4_changes_what_its_name_says_and_nothing_else(path):
    found = read_recipe(path)
    changed = {
        "length-biased": ("order", "length_biased"),
        "epochs-2": ("epochs", 2.0),
        "epochs-3": ("epochs", 3.0),
        "learning-rate-1e-6": ("learning_rate", 1e-6),
        "learning-rate-2e-6": ("learning_rate", 2e-6),
        "adagrad": ("optimizer", "adagrad"),
        "rmsprop": ("optimizer", "rmsprop"),
    }
    stated = {"order": "random", "epochs": 1.0, "learning_rate": 5e-7, "optimizer": "adamw"}
    stated |= dict(value for name, value in changed.items() if path.stem.startswith(name))
    assert {key: getattr(found, key) for key in stated} == stated
    assert (found.algorithm, found.batch_size) == ("dpo", 128)
    assert found.model == "alignment-handbook/zephyr-7b-sft-full"
    assert found.data.startswith("hub:HuggingFaceH4/ultrafeedback_binarized:train_prefs")


def test_a_file_of_table_6_has_the_algorithm_of_its_name():
    for path in (*(FOLDER / "mistral-7b").iterdir(), *(FOLDER / "llama-3-8b").iterdir()):
        found = read_recipe(path)
        assert found.algorithm == path.stem.replace("-", "_")
        assert (found.batch_size, found.epochs) == (128, 1.0)
        assert found.data == "hub:HuggingFaceH4/ultrafeedback_binarized:train_prefs"


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *(("dpo-10", 48), ("dpo-20", 96), ("dpo-40", 192), ("epochs-2", 192), ("epochs-3", 288), ("rmsprop", 96)),
        *(("length-biased-10", 48), ("length-biased-20", 96), ("length-biased-40", 191)),
    ],
)
def test_the_steps_that_the_files_tell(name, steps):
    path = FOLDER / "zephyr-7b" / f"{name}.toml"
    recipe = read_recipe(path)
    part = recipe.data.partition("[:")[2].rstrip("%]")  # a slice of the split
    planned = plan_steps(recipe, round(PAIRS * int(part or 100) / 100), 8)
    assert planned.trained == planned.schedule == steps
    assert f"{steps} of 478 steps" in path.read_text() or f": {steps} steps." in path.read_text()


@pytest.mark.parametrize(("name", "steps"), [("dpo-40", 4), ("length-biased-20", 2)])
def test_a_recipe_on_a_tiny_stand_in(tmp_path, capsys, theta0, pairs, name, steps):
    """The same file but for model, batch and rate, and a data set of the same form and splits in a folder."""
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    with (data / "train_prefs-00000-of-00001.jsonl").open("w") as file:
        for pair in map(json.loads, pairs.read_text().splitlines()):
            asked = {"role": "user", "content": pair["prompt"]}
            row = {side: [asked, {"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
            file.write(json.dumps({"prompt": pair["prompt"], **row, "messages": row["chosen"]}) + "\n")
    text = (FOLDER / "zephyr-7b" / f"{name}.toml").read_text()
    for theirs, ours in (
        ("alignment-handbook/zephyr-7b-sft-full", str(theta0)),
        ("HuggingFaceH4/ultrafeedback_binarized", str(data.parent)),
        ("learning_rate = 5e-7", "learning_rate = 1e-2"),
        ("batch_size = 128\nmicro_batch_size = 8", "batch_size = 4\nmicro_batch_size = 2"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    (tmp_path / "r.toml").write_text(text)
    main(["train", str(tmp_path / "r.toml"), "--dry-run"])
    assert f"{steps} of {steps}, batch 4 = 1 processes x 2 x 2" in capsys.readouterr().out
    main(["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == steps and json.loads(lines[0])["loss"] == pytest.approx(math.log(2), abs=1e-3)
    Checkpoint.open(str(tmp_path / "run" / "model"))
