"""Which pairs may be extrapolated, and what is said about those that may not."""

from pathlib import Path

import pytest
import torch

from llm_expo.errors import MismatchError
from llm_expo.weights import Direction


def open_pair(save, tmp_path: Path, initial: dict[str, torch.Tensor], aligned: dict[str, torch.Tensor]) -> Direction:
    return Direction.open(save(tmp_path / "theta0", initial), save(tmp_path / "theta1", aligned))


def test_every_mismatch_is_listed_at_once(save, tmp_path: Path) -> None:
    direction = open_pair(
        save,
        tmp_path,
        {"w0": torch.zeros(2), "embed.weight": torch.zeros(4, 2), "w1": torch.zeros(1), "codes": torch.zeros(2).int()},
        {"w0": torch.zeros(2), "embed.weight": torch.zeros(5, 2), "w2": torch.zeros(1), "codes": torch.zeros(2).long()},
    )
    assert sorted(direction.mismatches()) == [
        "codes: I32 in theta0, I64 in theta1",
        "embed.weight: shape [4, 2] in theta0, [5, 2] in theta1",
        "w1: only in theta0",
        "w2: only in theta1",
    ]
    with pytest.raises(MismatchError) as caught:
        direction.paired()
    message = str(caught.value)
    assert f"theta0 {tmp_path / 'theta0'} and theta1 {tmp_path / 'theta1'} do not match in 4 of 4 tensors" in message
    assert all(each in message for each in direction.mismatches())
    assert message.endswith("--new-rows copy keeps its new rows and extrapolates the others")
    assert "\n" not in message


def test_float_types_may_differ(save, tmp_path: Path) -> None:
    direction = open_pair(
        save,
        tmp_path,
        {"a": torch.zeros(2), "b": torch.zeros(2).half(), "c": torch.zeros(2).double()},
        {"a": torch.zeros(2).bfloat16(), "b": torch.zeros(2).bfloat16(), "c": torch.zeros(2).half()},
    )
    assert direction.mismatches() == []
    direction.paired()


def test_float8_on_one_side_is_a_mismatch(save, tmp_path: Path) -> None:
    before, after = {"a": torch.zeros(2)}, {"a": torch.zeros(2).to(torch.float8_e4m3fn)}
    assert open_pair(save, tmp_path, before, after).mismatches() == ["a: F32 in theta0, F8_E4M3 in theta1"]


def test_long_lists_end_in_a_count(save, tmp_path: Path) -> None:
    direction = open_pair(
        save, tmp_path, {f"old{i}": torch.zeros(1) for i in range(20)}, {f"new{i}": torch.zeros(1) for i in range(20)}
    )
    assert len(direction.mismatches()) == 40
    with pytest.raises(
        MismatchError, match=r"do not match in 40 of 20 tensors: .*; and 28 more\. theta0 must be the very"
    ):
        direction.paired()


def test_equal_numbers_are_no_direction_whatever_their_types(save, tmp_path: Path) -> None:
    same = torch.arange(600_000).remainder(256)  # which every type holds, in more than one chunk
    initial, aligned = {"a": same.float(), "b": torch.ones(2)}, {"a": same.bfloat16(), "b": torch.ones(2).double()}
    direction = open_pair(save, tmp_path, initial, aligned)
    with pytest.raises(MismatchError, match="theta0 .*/theta0 and theta1 .*/theta1 hold the same numbers in every"):
        direction.refuse_equal()
    for number, (name, value) in enumerate([("a", 1.0), ("b", 2.0), ("b", float("nan"))]):
        other = {key: tensor.clone() for key, tensor in aligned.items()}
        other[name][-1] = value
        Direction.open(tmp_path / "theta0", save(tmp_path / f"other{number}", other)).refuse_equal()
