"""The plan: every tensor of theta1 by name, with what becomes of it and why."""

import math
from pathlib import Path

import pytest
import torch

from llm_expo.errors import CheckpointError, ExpoError, MismatchError
from llm_expo.weights import Direction, plan


def a_direction(save, tmp_path: Path) -> Direction:
    before = {
        "same": torch.zeros(2).bfloat16(),
        "wider": torch.zeros(2),
        "ids": torch.zeros(2).long(),
        "mask": torch.zeros(2).bool(),
        "f8": torch.zeros(2).to(torch.float8_e4m3fn),
    }
    return Direction.open(
        save(tmp_path / "theta0", before, shards=2),
        save(tmp_path / "theta1", {**before, "wider": torch.zeros(2).half()}),
    )


@pytest.mark.parametrize(
    ("alpha", "same", "wider"),
    [
        (0.3, ("move", "BF16, alpha 0.3"), ("move", "F32 to F16, alpha 0.3")),
        (0, ("copy", "alpha 0 is theta1"), ("copy", "alpha 0 is theta1")),
        (-0.0, ("copy", "alpha 0 is theta1"), ("copy", "alpha 0 is theta1")),
        (-1, ("copy", "alpha -1 is theta0"), ("move", "F32 to F16, alpha -1")),
    ],
)
def test_every_tensor_of_theta1(save, tmp_path, alpha: float, same: tuple[str, str], wider: tuple[str, str]) -> None:
    direction = a_direction(save, tmp_path)
    planned = plan(direction, alpha)
    assert {step.target.name: (step.action, step.reason) for step in planned.steps} == {
        "same": same,
        "wider": wider,
        "ids": ("copy", "I64 is no type to calculate with: theta1's"),
        "mask": ("copy", "BOOL is no type to calculate with: theta1's"),
        "f8": ("copy", "F8_E4M3 is no type to calculate with: theta1's"),
    }
    assert planned.moved == sum(action == "move" for action, _ in (same, wider))
    assert planned.moved + planned.copied == len(direction.aligned.tensors) == len(planned.steps)


def test_the_layout_is_theta1s(save, tmp_path: Path) -> None:
    direction = a_direction(save, tmp_path)
    (file,) = plan(direction, 0.3).files
    assert (file.name, file.size) == ("model.safetensors", direction.aligned.files[0].size)
    assert file.header == direction.aligned.files[0].header
    assert plan(direction, 0.3).nbytes == direction.aligned.nbytes
    edges = [len(file.header), *(step.target.stop for step in file.steps)]
    assert [step.target.start for step in file.steps] == edges[:-1]
    assert edges[-1] == file.size
    assert {step.target.file for step in file.steps} == {Path("model.safetensors")}


def test_at_minus_one_sources_are_theta0s(save, tmp_path: Path) -> None:
    direction = a_direction(save, tmp_path)
    steps = {step.target.name: step for step in plan(direction, -1).steps}
    assert steps["same"].source == direction.initial.tensors["same"]
    assert steps["ids"].source == direction.aligned.tensors["ids"]


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 1e39, -1e39])
def test_alpha_must_be_finite(save, tmp_path: Path, alpha: float) -> None:
    with pytest.raises(
        ExpoError, match=f"alpha must be a finite number in float32's range, not {alpha:g}".replace("+", r"\+")
    ):
        plan(a_direction(save, tmp_path), alpha)


def test_nothing_to_extrapolate(save, tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2).long(), "b": torch.zeros(2).bool()}
    folders = [save(tmp_path / name, tensors) for name in ("theta0", "theta1")]
    with pytest.raises(
        CheckpointError, match="nothing to extrapolate, no tensor is F64, F32, F16 or BF16, only BOOL, I64"
    ):
        plan(Direction.open(*folders), 0.3)


def test_mismatches_are_raised(save, tmp_path: Path) -> None:
    direction = Direction.open(
        save(tmp_path / "theta0", {"a": torch.zeros(2)}), save(tmp_path / "theta1", {"b": torch.zeros(2)})
    )
    with pytest.raises(MismatchError):
        plan(direction, 0.3)
