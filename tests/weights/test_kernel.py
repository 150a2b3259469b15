"""The arithmetic, and what files and live models rest on: its bits do not depend on how a tensor is cut or laid out."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_expo.weights.kernel import extrapolate, first_not_finite, one_thread

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
ALPHAS = [0.3, -0.3, 0.5, -0.5, 1.0, 2.5, -0.9, -1.7, 16.0, 1e-6]


def bits(tensor: torch.Tensor) -> list[int]:
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.flatten().view(width).tolist()


def random_pair(dtype: torch.dtype, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(*shape, generator=generator, dtype=torch.float64)
    after = before + 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return before.to(dtype), after.to(dtype)


def test_literal_arithmetic() -> None:
    before, after = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 2.0, -4.0])
    assert extrapolate(before, after, 0.5).tolist() == [2.5, 2.0, -6.0]
    assert extrapolate(before, after, 0.25).tolist() == [2.25, 2.0, -5.0]
    assert extrapolate(before, after, -0.25).tolist() == [1.75, 2.0, -3.0]
    assert extrapolate(before, after, 4.0).tolist() == [6.0, 2.0, -20.0]
    assert extrapolate(before, after, -2.0).tolist() == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rounding(dtype: torch.dtype, alpha: float) -> None:
    """Against the exact result: half a unit in the last place, and float32's error for the 16-bit types."""
    before, after = random_pair(dtype, 1000)
    exact = after.double().numpy() + alpha * (after.double().numpy() - before.double().numpy())
    result = extrapolate(before, after, alpha)
    assert result.dtype == dtype
    terms = np.abs(after.double().numpy()) + abs(alpha) * np.abs(after.double().numpy() - before.double().numpy())
    rounding = torch.finfo(dtype).eps / 2 * np.abs(exact)
    arithmetic = 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps * terms
    denormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert (np.abs(result.double().numpy() - exact) <= rounding + arithmetic + denormal).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_16_bit_types_are_float32_arithmetic_rounded_once(dtype: torch.dtype, alpha: float) -> None:
    before, after = random_pair(dtype, 5000)
    wide = extrapolate(before.float(), after.float(), alpha)
    assert bits(extrapolate(before, after, alpha)) == bits(wide.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("alpha", "side"), [(0, 1), (0.0, 1), (-0.0, 1), (-1, 0), (-1.0, 0)])
def test_zero_and_minus_one_copy(dtype: torch.dtype, alpha: float, side: int) -> None:
    odd = torch.tensor([-0.0, 0.0, math.nan, math.inf, -math.inf, 3.0], dtype=dtype)
    pair = (odd, odd.flip(0)) if side == 0 else (odd.flip(0), odd)
    assert bits(extrapolate(*pair, alpha)) == bits(odd)


def test_mixed_dtypes() -> None:
    before, after = torch.tensor([1.0, 0.1], dtype=torch.float32), torch.tensor([2.0, 0.1], dtype=torch.bfloat16)
    result = extrapolate(before, after, 0.3)
    assert result.dtype == torch.bfloat16
    assert bits(result) == bits(extrapolate(before, after.float(), 0.3).bfloat16())
    assert bits(extrapolate(before, after, -1)) == bits(before.bfloat16())
    double = extrapolate(before.double(), after, 0.3, torch.empty(2, dtype=torch.float64))
    assert bits(double) == bits(extrapolate(before.double(), after.double(), 0.3))


def test_the_result_type_is_outs() -> None:
    before, after = random_pair(torch.bfloat16, 100)
    out = torch.empty(100)
    assert extrapolate(before, after, 0.3, out) is out
    assert bits(out) == bits(extrapolate(before.float(), after.float(), 0.3))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    alpha=st.sampled_from(ALPHAS),
    cuts=st.lists(st.integers(0, 999), max_size=6),
    offset=st.integers(0, 37),
    stride=st.integers(1, 3),
)
def test_bits_do_not_depend_on_chunks_offsets_or_strides(
    dtype: torch.dtype, alpha: float, cuts: list[int], offset: int, stride: int
) -> None:
    before, after = random_pair(dtype, 1000)
    whole = bits(extrapolate(before, after, alpha))
    placed = []
    for tensor in (before, after, torch.empty(1000, dtype=dtype)):
        home = torch.zeros(offset + 1000 * stride, dtype=dtype)
        view = home[offset::stride][:1000]
        placed.append(view.copy_(tensor))
    edges = [0, *sorted(cuts), 1000]
    for start, stop in pairwise(edges):
        extrapolate(placed[0][start:stop], placed[1][start:stop], alpha, placed[2][start:stop])
    assert bits(placed[2]) == whole


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_shape_threads_or_being_alone(dtype: torch.dtype) -> None:
    before, after = random_pair(dtype, 70_000)
    with one_thread():
        whole = bits(extrapolate(before, after, 0.3))
    assert bits(extrapolate(before, after, 0.3)) == whole
    assert bits(extrapolate(before.view(350, 200).T, after.view(350, 200).T, 0.3).T) == whole
    assert (
        bits(torch.stack([extrapolate(b, a, 0.3) for b, a in zip(before[:99], after[:99], strict=True)])) == whole[:99]
    )


@pytest.mark.parametrize("alpha", [0, -1, 0.3, 2.0])
@pytest.mark.parametrize("types", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("side", [0, 1])
def test_out_may_be_either_input(alpha: float, types: tuple[torch.dtype, torch.dtype], side: int) -> None:
    before, after = random_pair(types[0], 100)[0], random_pair(types[1], 100)[1]
    expected = bits(extrapolate(before, after, alpha, torch.empty_like((before, after)[side])))
    out = (before, after)[side]
    assert extrapolate(before, after, alpha, out) is out
    assert bits(out) == expected


def test_out_must_not_overlap_an_input_in_part() -> None:
    home = torch.zeros(101)
    with pytest.raises(RuntimeError, match=r"overlap|single memory location"):
        extrapolate(torch.ones(100), home[:100], 0.3, home[1:])


def test_parameters_of_a_live_model() -> None:
    parameter = torch.nn.Parameter(torch.tensor([2.0]))
    extrapolate(torch.tensor([1.0]), torch.nn.Parameter(torch.tensor([2.0])), 0.5, parameter)
    assert parameter.tolist() == [2.5]
    assert parameter.requires_grad
    assert parameter.grad_fn is None
    with torch.inference_mode():
        extrapolate(torch.tensor([1.0]), torch.tensor([2.0]), 1.0, parameter)
    assert parameter.tolist() == [3.0]
    assert extrapolate(torch.empty(0), torch.empty(0), 0.3).shape == (0,)
    assert extrapolate(torch.tensor(1.0), torch.tensor(2.0), 1.0).item() == 3.0


def test_wrong_tensors() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \[1, 2\], \[2\], out \[2\]"):
        extrapolate(torch.zeros(1, 2), torch.zeros(2), 0.3)
    with pytest.raises(ValueError, match=r"cannot be extrapolated: torch.int64"):
        extrapolate(torch.zeros(2), torch.zeros(2).long(), 0.3)
    with pytest.raises(ValueError, match=r"cannot be extrapolated: torch.float8_e4m3fn"):
        extrapolate(torch.zeros(2).to(torch.float8_e4m3fn), torch.zeros(2), 0.3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_not_finite(dtype: torch.dtype, bad: float) -> None:
    tensor = torch.zeros(3, 4, dtype=dtype)
    assert first_not_finite(tensor) is None
    assert first_not_finite(tensor[:0]) is None
    tensor[2, 1] = tensor[1, 2] = bad
    assert first_not_finite(tensor) == 6


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
