"""The record of a training: what it says, and that the theta0 in it is found and held to."""

import json
import logging
from pathlib import Path

import pytest

import llm_expo
from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.errors import CheckpointError
from llm_expo.testing import tiny_pair
from llm_expo.training.recipe import Recipe
from llm_expo.training.record import training_record
from llm_expo.weights import Direction, write_difference


def recipe(theta0: Path) -> Recipe:
    return Recipe(
        model=str(theta0), data="hub:org/pairs:train", algorithm="dpo", coefficients={"beta": 0.1}, learning_rate=5e-7,
        batch_size=128, save_at=[0.1, 40],
    )  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """theta0, and a model with the record of its training from it."""
    theta0, theta1 = tiny_pair(tmp_path)
    record = training_record(recipe(theta0), Checkpoint.open(theta0), 40, 400)
    (theta1 / "llm_expo.json").write_text(json.dumps(record))
    return theta0, theta1


def test_what_it_says(trained: tuple[Path, Path]) -> None:
    theta0, theta1 = trained
    record = json.loads((theta1 / "llm_expo.json").read_text())
    assert (record["tool"], record["version"], record["method"]) == ("llm-expo", llm_expo.__version__, "training")
    assert record["initial"] == {"path": str(theta0), "fingerprint": fingerprint(Checkpoint.open(theta0))}
    training = record["training"]
    assert (training["step"], training["steps"]) == (40, 400)
    said = training["recipe"]
    assert (said["algorithm"], said["coefficients"], said["save_at"]) == ("dpo", {"beta": 0.1}, [0.1, 40])
    assert (said["seed"], said["optimizer"], said["lora"]) == (42, "adamw", None), "defaults are settled"
    assert {"torch", "transformers"} <= set(training["versions"])
    assert record == training_record(recipe(theta0), Checkpoint.open(theta0), 40, 400), "the same run says the same"


def test_theta0_is_read_from_it(trained: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    theta0, theta1 = trained
    with caplog.at_level(logging.INFO, "llm_expo"):
        pair = Direction.open(None, theta1)
    assert pair.initial.path == theta0
    assert caplog.messages == [f"theta0 is {theta0}, as {theta1}/llm_expo.json says"]


def test_a_difference_keeps_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    theta0, theta1 = trained
    write_difference(Checkpoint.open(theta0), Checkpoint.open(theta1), tmp_path / "kept")
    assert (tmp_path / "kept" / "llm_expo.json").read_bytes() == (theta1 / "llm_expo.json").read_bytes()


def test_theta0_has_changed_or_is_another(trained: tuple[Path, Path], tmp_path: Path) -> None:
    theta0, theta1 = trained
    right = fingerprint(Checkpoint.open(theta0))
    other, _ = tiny_pair(tmp_path / "other", seed=1)
    assert Direction.open(theta0, theta1).warnings() == []
    [warning] = Direction.open(other, theta1).warnings()
    assert f"{theta1}/llm_expo.json: theta1 was made from {theta0} (fingerprint {right}), and theta0 {other}" in warning
    (other / "model.safetensors").replace(theta0 / "model.safetensors")
    changed = fingerprint(Checkpoint.open(theta0))
    with pytest.raises(CheckpointError) as caught:
        Direction.open(None, theta1)
    assert f"{theta0} has {changed}, so that it has changed or is another; give the right theta0" in str(caught.value)
