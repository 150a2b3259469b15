"""Gumbel noise as a pure function of (stream, position, token).

A generator that is advanced row by row gives a prompt other noise as soon as its neighbours in the batch change.
Here the noise of a token is a hash of where it stands, so a prompt meets the same noise at every alpha, in whatever
batch, after whatever restart. Knows nothing of models or text.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The finaliser of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014) and
# its increment, as signed 64-bit integers: torch's int64 arithmetic wraps, on CPU and CUDA alike.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def stream(*parts: object) -> int:
    """The key of a noise stream, a signed 64-bit integer, from anything with a stable repr (seed, prompt id, ...)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def gumbel(streams: "Tensor", position: int, tokens: "Tensor") -> "Tensor":
    """Standard Gumbel noise, float64, of shape (batch, candidates).

    Args:
        streams: int64 (batch,), one key a row (see `stream`).
        position: how many tokens the reply has so far.
        tokens: int64 (batch, candidates), the token ids that compete.
    """
    rows = _mix(streams + streams.new_tensor(position + 1) * _INCREMENT)
    bits = _mix(rows[:, None] + (tokens + 1) * _INCREMENT)
    # 52 bits and a half: exactly representable in float64 and never 0 or 1, so both logarithms are finite.
    uniform = (_shift(bits, 12).double() + 0.5) * 2.0**-52
    return -(-uniform.log()).log()


def _mix(z: "Tensor") -> "Tensor":
    z = (z ^ _shift(z, 30)) * _MULTIPLIERS[0]
    z = (z ^ _shift(z, 27)) * _MULTIPLIERS[1]
    return z ^ _shift(z, 31)


def _shift(z: "Tensor", bits: int) -> "Tensor":
    """Logical shift right: torch's `>>` drags the sign bit along."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
