"""The statistics of a step, by hand."""

import math

import pytest
import torch

from llm_expo.weights.kernel import extrapolate
from llm_expo.weights.tally import Distance, Measure, Tally

measure = Measure(1000)


def test_literal_step() -> None:
    before, after, result = torch.tensor([1.0, 1.0, 5.0]), torch.tensor([2.0, 3.0, 5.0]), torch.tensor([2.5, 3.0, 5.0])
    tally = measure.step(before, after, result)
    assert tally == Tally(elements=3, differing=2, swallowed=1, along=0.5, squared=5.0)
    assert tally.share_differing == pytest.approx(2 / 3)
    assert tally.share_swallowed == 0.5
    assert tally.realised_alpha == 0.1
    assert tally + Tally(1, 1, 1, 1.0, 1.0) == Tally(4, 3, 2, 1.5, 6.0)
    assert before.tolist() == [1.0, 1.0, 5.0], "the chunks are left as they are"


def test_nothing_to_measure() -> None:
    assert (Tally().share_differing, Tally().share_swallowed, Tally().realised_alpha) == (None, None, None)
    same = torch.tensor([1.0, -0.0])
    assert measure.step(same, same, same) == Tally(elements=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_against_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(1000, generator=generator).to(dtype)
    after = (before.float() + 0.01 * torch.randn(1000, generator=generator)).to(dtype)
    result = extrapolate(before, after, 0.3)
    tally = measure.step(before, after, result)
    direction, step = after.double() - before.double(), result.double() - after.double()
    assert tally.differing == int((before != after).sum())
    assert tally.swallowed == int(((before != after) & (result == after)).sum())
    assert tally.squared == pytest.approx(float(direction @ direction), rel=1e-5)
    assert tally.realised_alpha == pytest.approx(float(step @ direction / (direction @ direction)), rel=1e-4)


def test_mixed_dtypes() -> None:
    before, after = torch.tensor([1.0, 1.5, 1.001]), torch.tensor([2.0, 1.5, 1.0]).bfloat16()
    tally = measure.step(before, after, extrapolate(before, after, 1.0))
    assert (tally.elements, tally.differing, tally.swallowed) == (3, 2, 1)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_float32(scale: float) -> None:
    before, after = torch.tensor([1.0, 2.0]) * scale, torch.tensor([2.0, 4.0]) * scale
    assert measure.step(before, after, extrapolate(before, after, 0.5)).realised_alpha == 0.5
    assert measure.distance(before, after).squared == pytest.approx(5 * scale**2, rel=1e-6)


def test_bfloat16_swallows_steps_of_one_ulp() -> None:
    before = torch.full((100,), 1.0).bfloat16()
    after = torch.full((100,), 1.0 + 2**-7).bfloat16()
    small = measure.step(before, after, extrapolate(before, after, 0.4))
    assert (small.share_differing, small.share_swallowed, small.realised_alpha) == (1.0, 1.0, 0.0)
    large = measure.step(before, after, extrapolate(before, after, 0.6))
    assert (large.share_swallowed, large.realised_alpha) == (0.0, 1.0)


def test_literal_distance() -> None:
    found = measure.distance(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([3.0, 1.0, -4.0]))
    assert found == Distance(elements=3, differing=2, squared=25.0, squared_initial=25.0)
    assert math.sqrt((found + found).squared) == pytest.approx(math.sqrt(50))
