"""The arithmetic in C, against NumPy and torch: its bits do not depend on how a tensor is cut."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_expo.weights.distance import Distance
from llm_expo.weights.kernel import Rounding, distance, step
from llm_expo.weights.memory import DTYPES
from llm_expo.weights.tally import Tally

ALPHAS = [0.3, -0.3, 0.5, -0.5, 1.0, 2.5, -0.9, -1.7, 16.0, 1e-6]
CODES = list(DTYPES)


def raw(tensor: torch.Tensor) -> bytearray:
    return bytearray(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def tensor_of(memory: bytearray, code: str) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=DTYPES[code]) if memory else torch.empty(0, dtype=DTYPES[code])


def moved(before: torch.Tensor, after: torch.Tensor, alpha: float, code: str, **options: Any) -> tuple[Any, Any, Any]:
    """The result as a tensor, the tally, and the index of what is not finite."""
    codes = {dtype: name for name, dtype in DTYPES.items()}
    out = bytearray(after.numel() * DTYPES[code].itemsize)
    tally, bad = step(raw(before), codes[before.dtype], raw(after), codes[after.dtype], out, code, alpha, **options)
    return tensor_of(out, code), tally, bad


def random_pair(code: str, count: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    before = scale * torch.randn(count, generator=generator, dtype=torch.float64)
    after = before + 0.1 * scale * torch.randn(count, generator=generator, dtype=torch.float64)
    return before.to(DTYPES[code]), after.to(DTYPES[code])


def oracle(before: torch.Tensor, after: torch.Tensor, alpha: float) -> torch.Tensor:
    """float32, with the sum of a product rounded once: a product of two float32 is exact in float64."""
    start, end = (after, before) if alpha > 0 else (before, after)  # so that a -0.0 that does not differ stays
    direction = (end.float() - start.float()).double()
    return (after.double() - float(np.float32(abs(alpha))) * direction).float()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and raw(one) == raw(other)


def test_literal_arithmetic() -> None:
    before, after = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 2.0, -4.0])
    for alpha, expected in [(0.5, [2.5, 2, -6]), (-0.25, [1.75, 2, -3]), (4.0, [6, 2, -20]), (-2.0, [0, 2, 4])]:
        assert moved(before, after, alpha, "F32")[0].tolist() == expected


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("out", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("code", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_float32_and_one_rounding(code: str, out: str, alpha: float, scale: float) -> None:
    before, after = random_pair(code, 5000, scale)
    result, _, bad = moved(before, after, alpha, out)
    assert bad is None
    assert same_bits(result, oracle(before, after, alpha).to(DTYPES[out]))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("out", CODES)
def test_float64_where_one_of_them_is(out: str, alpha: float) -> None:
    before, after = random_pair("F64", 5000)
    exact = after.numpy().astype(np.longdouble) + np.longdouble(alpha) * (after.numpy() - before.numpy())
    result = moved(before, after, alpha, out)[0]
    limit = torch.finfo(DTYPES[out]).eps / 2 * np.abs(exact) * (1 + 2**-12) + torch.finfo(DTYPES[out]).tiny
    assert (np.abs(result.double().numpy() - exact) <= limit).all()


def test_float64_to_16_bits_is_rounded_once() -> None:
    # Just above the middle of two bfloat16 neighbours; rounded to float32 first, it would lie on the middle.
    after = torch.tensor([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 2**-8], dtype=torch.float64)
    result = moved(after.clone(), after, 1.0, "BF16")[0]
    assert result.tolist() == [1 + 2**-7, -(1 + 2**-7), 1.0]


@pytest.mark.parametrize("code", ["BF16", "F16"])
def test_every_16_bit_pattern_survives(code: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(DTYPES[code])
    finite = every[every.isfinite()]
    for alpha in (0.0, 0.3, 7.0):  # no direction, so no movement, -0.0 included
        if alpha:
            finite = finite[finite != 0]
        assert same_bits(moved(finite, finite, alpha, code)[0], finite)
        assert same_bits(moved(finite, finite, alpha, "F32")[0], finite.float())
    wide = torch.linspace(-70000, 70000, 100_001)
    assert same_bits(moved(wide, wide, 0.0, code)[0], wide.to(DTYPES[code])) or code == "F16"


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("alpha", "side"), [(0, 1), (-0.0, 1), (-1, 0)])
def test_zero_and_minus_one_are_exact(code: str, alpha: float, side: int) -> None:
    odd = torch.tensor([-0.0, 0.0, 3.0, 1e-7, -5.0, 60000.0], dtype=DTYPES[code])
    pair = (odd, odd.flip(0)) if side == 0 else (odd.flip(0), odd)
    assert same_bits(moved(*pair, alpha, code)[0], odd)


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(CODES),
    alpha=st.sampled_from(ALPHAS),
    cuts=st.lists(st.integers(0, 2999), max_size=6),
    stochastic=st.booleans(),
)
def test_bits_do_not_depend_on_chunks(code: str, alpha: float, cuts: list[int], stochastic: bool) -> None:
    before, after = random_pair(code, 3000)
    options = {"stochastic": stochastic, "key": 7}
    whole, tally, _ = moved(before, after, alpha, code, **options)
    parts, sum_ = [], Tally()
    for start, stop in pairwise([0, *sorted(cuts), 3000]):
        part, more, _ = moved(before[start:stop], after[start:stop], alpha, code, position=start, **options)
        parts.append(part.clone())
        sum_ += more
    assert same_bits(torch.cat(parts), whole)
    assert (sum_.elements, sum_.differing, sum_.swallowed) == (tally.elements, tally.differing, tally.swallowed)
    assert sum_.along == pytest.approx(tally.along, rel=1e-12)


@pytest.mark.parametrize("code", ["BF16", "F16"])
@pytest.mark.parametrize("value", [1.0 + 2**-12, -3.0e-3, 7e-6, -1e-7, 1000.123, 0.0, -1.5])
def test_stochastic_rounding_is_right_on_average(code: str, value: float) -> None:
    count = 1 << 18
    exact = float(np.float32(value))
    after = torch.full((count,), exact)
    result = moved(after, after, 0.0, code, stochastic=True, key=Rounding("stochastic", 3).key("w"))[0].double()
    levels = result.unique()
    assert len(levels) <= 2
    assert levels.min() <= exact <= levels.max()
    spread = float(levels.max() - levels.min())
    assert float(result.mean()) == pytest.approx(exact, abs=5 * spread / math.sqrt(count) / 2 + 1e-12)
    if spread == 0:
        assert exact == float(result[0])


def test_stochastic_noise_is_the_tensors_own() -> None:
    keys = {Rounding("stochastic", seed).key(name) for seed in (0, 1) for name in ("a", "b")}
    assert len(keys) == 4
    after = torch.full((1000,), 1.001)
    first, again, other = (moved(after, after, 0.0, "BF16", stochastic=True, key=key)[0] for key in (5, 5, 6))
    assert same_bits(first, again)
    assert not same_bits(first, other)


def test_stochastic_rounding_moves_what_nearest_swallows() -> None:
    before = torch.full((100_000,), 1.0).bfloat16()
    after = torch.full((100_000,), 1.0 + 2**-7).bfloat16()
    nearest = moved(before, after, 0.3, "BF16")[1]
    assert (nearest.share_differing, nearest.share_swallowed, nearest.realised_alpha) == (1.0, 1.0, 0.0)
    chance = moved(before, after, 0.3, "BF16", stochastic=True, key=1)[1]
    assert chance.realised_alpha == pytest.approx(0.3, abs=0.01)
    assert chance.share_swallowed == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_found(code: str, bad: float, side: int) -> None:
    sides = [torch.ones(3000, dtype=DTYPES[code]), torch.full((3000,), 2.0, dtype=DTYPES[code])]
    sides[side][[1500, 2999]] = bad
    assert moved(sides[0], sides[1], 0.5, code)[2] == 1500
    result, tally, found = moved(sides[0], sides[1], 0.5, code, let_through=True)
    assert found is None
    assert same_bits(result[[1500, 2999]], sides[1][[1500, 2999]])
    assert result[0] == 2.5
    assert tally.along == 0.5 * 2998
    assert distance(raw(sides[0]), code, raw(sides[1]), code)[1] == 1500


def test_a_result_that_overflows_is_never_let_through() -> None:
    before, after = torch.tensor([1.0, -60000.0]).half(), torch.tensor([1.0, 60000.0]).half()
    assert moved(before, after, 1.0, "F16", let_through=True)[2] == 1
    assert moved(before, after, 1.0, "F32")[2] is None


def test_chunks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        step(bytearray(4), "F32", bytearray(8), "F32", bytearray(8), "F32", 0.3)
    with pytest.raises(ValueError, match="whole number"):
        step(bytearray(6), "F32", bytearray(6), "F32", bytearray(6), "F32", 0.3)
    with pytest.raises((ValueError, BufferError)):
        step(bytes(4), "F32", bytes(4), "F32", bytes(4), "F32", 0.3)
    with pytest.raises(ValueError, match="different lengths"):
        distance(bytes(4), "F32", bytes(8), "F32")
    assert step(bytearray(), "F32", bytearray(), "BF16", bytearray(), "F16", 0.3) == (Tally(), None)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_tally(code: str, scale: float) -> None:
    before, after = random_pair(code, 3000, scale)
    after[::3] = before[::3]
    result, tally, _ = moved(before, after, 0.3, code)
    direction, way = after.double() - before.double(), result.double() - after.double()
    assert tally.elements == 3000
    assert tally.differing == int((before != after).sum())
    assert tally.swallowed == int(((before != after) & (result == after)).sum())
    assert tally.squared == pytest.approx(float(direction @ direction), rel=1e-6)
    assert tally.realised_alpha == pytest.approx(float(way @ direction / (direction @ direction)), rel=1e-5)


def test_swallowed_in_another_type_is_theta1_in_that_type() -> None:
    before, after = torch.tensor([1.001, 2.0, 1.0]), torch.tensor([1.002, 3.0, 1.0])
    assert moved(before, after, 0.3, "BF16")[1].swallowed == 1
    assert moved(before, after, 0.3, "F32")[1].swallowed == 0


@pytest.mark.parametrize("code", CODES)
def test_distance(code: str) -> None:
    before, after = random_pair(code, 3000)
    after[::3] = before[::3]
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[DTYPES[code].itemsize]
    after[1::3] = (before[1::3].view(integer) + 1).view(DTYPES[code])
    found, bad = distance(raw(before), code, raw(after), code)
    assert bad is None
    equal = int((before == after).sum())  # a thousand, and those that the 16-bit types cannot tell apart
    assert (found.elements, found.equal) == (3000, equal)
    assert 1000 <= equal <= 1050
    assert 1000 <= found.one_ulp <= 1100
    for sum_, values in [
        (found.squared, after.double() - before.double()),
        (found.squared_initial, before.double()),
        (found.squared_aligned, after.double()),
    ]:
        assert sum_ == pytest.approx(float(values @ values), rel=1e-12)


def test_distance_of_mixed_types_counts_in_the_coarser_one() -> None:
    before, after = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 1 + 2**-7, 1 + 2**-6, -0.0]).bfloat16()
    found, _ = distance(raw(before), "F32", raw(after), "BF16")
    assert (found.equal, found.one_ulp) == (2, 1)
    assert found + found == Distance(8, 4, 2, 2 * found.squared, 2 * found.squared_initial, 2 * found.squared_aligned)


@pytest.mark.parametrize("alpha", [0.3, -0.7, 0.0, -1.0])
@pytest.mark.parametrize("out", CODES)
@pytest.mark.parametrize("code", CODES)
def test_without_the_tally_the_bits_are_the_same(code: str, out: str, alpha: float) -> None:
    before, after = random_pair(code, 2500)
    expected, _, _ = moved(before, after, alpha, out)
    result, tally, bad = moved(before, after, alpha, out, tally=False)
    assert raw(result) == raw(expected)
    assert (tally.differing, tally.along, bad) == (0, 0.0, None)
    if out == code:  # in the place of one of the two
        for side in (before, after):
            place = raw(side)
            sides = [place if each is side else raw(each) for each in (before, after)]
            step(sides[0], code, sides[1], code, place, code, alpha, tally=False)
            assert place == raw(expected)


@pytest.mark.parametrize("place", [3, 1024, 2400])
def test_without_the_tally_what_is_not_finite_is_found(place: int) -> None:
    for code in CODES:
        for side in (0, 1):
            sides = random_pair(code, 2500)
            sides[side][place] = math.inf
            assert moved(*sides, 0.5, code, tally=False)[2] == place
    before, after = torch.zeros(2500), torch.full((2500,), 60000.0)
    assert moved(before, after, 0.5, "F16", tally=False)[2] == 0
