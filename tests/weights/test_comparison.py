"""compare: the paper's figures by hand, and mismatches as facts."""

import math
from pathlib import Path

import pytest
import torch

from llm_expo.errors import CheckpointError
from llm_expo.weights import Direction, Mover, compare


def test_literal_figures(save, tmp_path: Path) -> None:
    before = {
        "still": torch.full((4,), 5.0),
        "far": torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
        "near": torch.full((100,), 1.0).bfloat16(),
        "from_zero": torch.zeros(2),
        "grown": torch.zeros(2, 2),
        "ids": torch.arange(3),
    }
    after = {
        **before,
        "far": torch.tensor([[3.0, 0.0], [3.0, 0.0]]),
        "near": torch.full((100,), 1.5),
        "from_zero": torch.tensor([0.0, 1.0]),
        "grown": torch.zeros(3, 2),
    }
    direction = Direction.open(
        save(tmp_path / "theta0", before, config={"a": 1}), save(tmp_path / "theta1", after, config={"a": 2})
    )
    found = compare(direction)
    assert (found.tensors, found.elements) == (4, 110)
    assert found.norm == pytest.approx(math.sqrt(25 + 25 + 1))
    assert found.norm_initial == pytest.approx(math.sqrt(100 + 25 + 100))
    assert found.norm_per_root_element == pytest.approx(math.sqrt(51 / 110))
    assert found.norm_relative == pytest.approx(math.sqrt(51 / 225))
    assert found.share_differing == pytest.approx((2 + 100 + 1) / 110)
    assert found.movers == (Mover("from_zero", 1.0, None), Mover("far", 5.0, 1.0), Mover("near", 5.0, 0.5))
    assert found.mismatches == ("grown: shape [2, 2] in theta0, [3, 2] in theta1",)
    assert [str(each) for each in found.files] == ["config.json: differs (a)"]


def test_a_model_and_itself(pair: tuple[Path, Path]) -> None:
    found = compare(Direction.open(pair[0], pair[0]))
    assert (found.norm, found.share_differing, found.norm_relative) == (0.0, 0.0, 0.0)
    assert (found.movers, found.mismatches, found.files) == ((), (), ())


def test_nothing_in_common(save, tmp_path: Path) -> None:
    found = compare(
        Direction.open(save(tmp_path / "theta0", {"a": torch.ones(1)}), save(tmp_path / "theta1", {"b": torch.ones(1)}))
    )
    assert (found.tensors, found.share_differing, found.norm_per_root_element, found.norm_relative) == (
        0,
        None,
        None,
        None,
    )
    assert set(found.mismatches) == {"a: only in theta0", "b: only in theta1"}


def test_not_a_number(save, tmp_path: Path) -> None:
    good, bad = {"w": torch.zeros(2, 3)}, {"w": torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]])}
    theta0, theta1 = save(tmp_path / "theta0", bad), save(tmp_path / "theta1", good)
    with pytest.raises(CheckpointError, match=r"theta0/model.safetensors \(theta0\): w holds nan at index \[1, 1\]"):
        compare(Direction.open(theta0, theta1))
