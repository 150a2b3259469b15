"""theta1 + alpha * (theta1 - theta0) in NumPy, to the bit, and sharing no line with llm_expo.

The difference is float32's, then comes one fused multiply-add in float32, then one rounding to the output's type. With
a float64 on either side, float64 stands for float32. The factor of the multiply-add is -|alpha| and the difference
is taken the other way round where alpha is positive: so a weight that does not differ stays as it is, -0.0 too.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

FLOATS = {"F64", "F32", "F16", "BF16"}
Bits = NDArray[np.generic]


def widened(data: bytes, dtype: str) -> Bits:
    """The numbers in a tensor's bytes, as float32; float64 stays."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    number = np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
    return number if dtype == "F64" else number.astype("<f4")


def fused(alpha: float, direction: Bits, aligned: Bits) -> Bits:
    """alpha * direction + aligned, rounded once to float32.

    In float64 the product is exact. Its sum is rounded to odd there (Boldo and Melquiond 2008): with 29 more bits than
    float32 has, the second rounding then gives what a single one would.
    """
    product = np.float64(np.float32(alpha)) * direction.astype("<f8")
    addend = aligned.astype("<f8")
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)  # exact (Knuth's TwoSum)
    even = (total.view("<i8") & 1) == 0
    inexact = np.isfinite(error) & (error != 0)
    neighbour = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(inexact & even, neighbour, total).astype("<f4")


def fused_double(alpha: float, direction: Bits, aligned: Bits) -> Bits:
    """The same in float64, by fractions."""

    def one(way: float, start: float) -> float:
        if not (np.isfinite(way) and np.isfinite(start)):
            return float("nan")
        try:
            exact = Fraction(alpha) * Fraction(way) + Fraction(start)
            return float(exact) if exact else alpha * way + start  # a fraction has no -0.0
        except OverflowError:
            return float("inf")

    return np.array([one(float(w), float(s)) for w, s in zip(direction, aligned, strict=True)], "<f8")


def narrowed(values: Bits, dtype: str) -> bytes:
    """Rounded to nearest even, as the bytes of a tensor."""
    if dtype != "BF16":
        return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    bits = values.astype("<f4").view("<u4").astype("<u8")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def extrapolated(initial: bytes, initial_dtype: str, aligned: bytes, aligned_dtype: str, alpha: float) -> bytes | None:
    """The bytes of the result in theta1's type; None where an input or the result is not finite."""
    before, after = widened(initial, initial_dtype), widened(aligned, aligned_dtype)
    wide = np.result_type(before.dtype, after.dtype)
    with np.errstate(all="ignore"):
        start, end = (after, before) if alpha > 0 else (before, after)
        direction = end.astype(wide) - start.astype(wide)
        result = (fused if wide == np.float32 else fused_double)(-abs(alpha), direction, after.astype(wide))
        data = narrowed(result, aligned_dtype)
    finite = all(np.isfinite(values).all() for values in (before, after, result, widened(data, aligned_dtype)))
    return data if finite else None
