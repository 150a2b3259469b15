"""The one kernel: theta(alpha) = theta1 + alpha * (theta1 - theta0), for chunks of elements in memory.

ExPO, arXiv 2404.16792, eq. 1. The arithmetic is in _kernel.c and lets go of the interpreter lock; files are streamed
through it, and tensors in memory moved by it (memory.py). Its results do not depend on how a tensor is cut into chunks.
Knows nothing of names and files.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from llm_expo.weights import _kernel
from llm_expo.weights.distance import Distance
from llm_expo.weights.tally import Tally

Chunk = memoryview | bytearray | bytes
_NUMBERS = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a result becomes a number of 16 bits: to the nearest one, ties to even, or up or down by chance.

    Stochastic rounding is right on average and leaves exact values as they are. Its noise is a function of the seed,
    the tensor's name and the element's position, whoever rounds it and when.
    """

    mode: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0

    def key(self, name: str) -> int:
        """The 64-bit key of a tensor's noise."""
        return int.from_bytes(blake2b(f"{self.seed}\0{name}".encode(), digest_size=8).digest(), "little")


def step(
    initial: Chunk,
    initial_dtype: str,
    aligned: Chunk,
    aligned_dtype: str,
    out: Chunk,
    out_dtype: str,
    alpha: float,
    *,
    stochastic: bool = False,
    key: int = 0,
    position: int = 0,
    let_through: bool = False,
    tally: bool = True,
) -> tuple[Tally, int | None]:
    """Write theta1 + alpha * (theta1 - theta0) to `out` and tally it.

    initial, aligned, out: equally many elements as contiguous, aligned bytes, of the safetensors dtypes named: BF16,
                           F16, F32 or F64. `out` may be one of the others if their dtypes are the same.
    alpha:                 any finite number. 0 gives theta1 and -1 theta0, bit for bit where out's dtype is theirs.
    stochastic, key, position: see Rounding; `position` is that of the first element in its tensor.
    let_through:           where an input is NaN or infinite, write theta1's value and leave it out of the tally.
    tally:                 False leaves the tally empty, for weights in memory: it takes longer than the step itself.

    Arithmetic is float32 with one fused multiply-add (float64 where one of the three is), then one rounding.
    Returns the tally, and the index of the first element that is not finite (nothing behind it counts) or None.
    Raises ValueError for chunks that do not fit each other.
    """
    numbers = _NUMBERS[initial_dtype], _NUMBERS[aligned_dtype], _NUMBERS[out_dtype]
    differing, swallowed, along, squared, bad, elements = _kernel.step(
        initial, numbers[0], aligned, numbers[1], out, numbers[2], alpha, stochastic, key, position, let_through, tally
    )
    return Tally(elements, differing, swallowed, along, squared), None if bad < 0 else bad


def distance(initial: Chunk, initial_dtype: str, aligned: Chunk, aligned_dtype: str) -> tuple[Distance, int | None]:
    """How far theta1's chunk lies from theta0's; chunks and dtypes as in `step`.

    Returns the distance, and the index of the first element that is not finite on either side or None.
    """
    equal, one_ulp, squared, squared_initial, squared_aligned, bad, elements = _kernel.distance(
        initial, _NUMBERS[initial_dtype], aligned, _NUMBERS[aligned_dtype]
    )
    found = Distance(elements, equal, one_ulp, squared, squared_initial, squared_aligned)
    return found, None if bad < 0 else bad
