"""Tensors that lie in no file and are calculated as they are read, a run of elements at a time.

    LowRank     base + scale * B @ A, the weight of an adapted module
    Stacked     matrices times a number each, one below the other or side by side: factors of several adapters in one
    Summed      tensors of one shape times a number each, added up: theta0 and a difference, or that difference itself

Their elements are float32, as is the arithmetic (PEFT merges a float32 model in the same way). Knows nothing of files'
formats or of alpha. numpy is loaded when the first run is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llm_expo.checkpoints.header import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# Fills the view with a tensor's bytes from the given byte on. Has to be safe to call from several threads at once.
Read = Callable[[Tensor, int, memoryview], None]

# Elements that are multiplied at once: enough rows that reading the right-hand factor for them does not count.
_BLOCK = 1 << 18
# Kept in memory, for the few tensors that some threads are reading at one time: right-hand factors, and the blocks that
# were multiplied last, since a run seldom ends where a block does.
_FACTORS = 8
_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class LowRank:
    """base + scale * B @ A, or its product's transpose (LoRA, arXiv 2106.09685, section 4.1)."""

    name: str  # in the base's checkpoint
    base: Tensor  # a matrix
    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    scale: float
    transposed: bool  # whether `base` is [in, out], as for embeddings and GPT-2's Conv1D, instead of [out, in]

    @property
    def dtype(self) -> str:
        """The base's: what a file that holds the result is to have."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def file(self) -> Path:
        """The adapter's file, for messages."""
        return self.a.file

    @property
    def elements(self) -> int:
        return self.base.elements

    @property
    def is_float(self) -> bool:
        return self.base.is_float

    @property
    def is_number(self) -> bool:
        return self.base.is_number

    def position(self, index: int) -> list[int]:
        """An index into the flattened tensor as one into its shape."""
        return self.base.position(index)


@dataclass(frozen=True, slots=True)
class Part:
    """factor * tensor."""

    tensor: Tensor
    factor: float


@dataclass(frozen=True, slots=True)
class Stacked:
    """The parts one below the other (axis 0) or side by side (axis 1)."""

    name: str
    shape: tuple[int, int]
    parts: tuple[Part, ...]
    axis: Literal[0, 1]

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def file(self) -> Path:
        """The first part's file, for messages."""
        return self.parts[0].tensor.file

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        return True

    @property
    def is_number(self) -> bool:
        return False

    def position(self, index: int) -> list[int]:
        """An index into the flattened tensor as one into its shape."""
        return [*divmod(index, self.shape[1])]


@dataclass(frozen=True, slots=True)
class Summed:
    """The sum of the parts, element by element, from the first to the last."""

    name: str
    parts: tuple[Part, ...]  # of one shape

    @property
    def dtype(self) -> str:
        """float32, whatever the parts are: what is small beside the first part would not survive in 16 bits."""
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].tensor.shape

    @property
    def file(self) -> Path:
        """The last part's file, for messages."""
        return self.parts[-1].tensor.file

    @property
    def elements(self) -> int:
        return self.parts[0].tensor.elements

    @property
    def is_float(self) -> bool:
        return True

    @property
    def is_number(self) -> bool:
        return False

    def position(self, index: int) -> list[int]:
        """An index into the flattened tensor as one into its shape."""
        return self.parts[0].tensor.position(index)


Calculated = LowRank | Stacked | Summed
Source = Tensor | Calculated


class Calculator:
    """Reads calculated tensors; may be used from several threads at once.

    The bits of an element do not depend on how a tensor is cut into runs: products are always made of the same blocks
    of rows, since a matrix product of one row sums in another order than one of many (measured on OpenBLAS).
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        # Needed whole for every block, and small: rank times a row of the result.
        self._right = lru_cache(maxsize=_FACTORS)(self._read_right)
        self._product = lru_cache(maxsize=_BLOCKS)(self._multiply)

    def read(self, source: Calculated, at: int, into: memoryview) -> None:
        """Fill `into` with the float32 of the elements from the flat index `at` on, 4 bytes each."""
        import numpy as np

        out = np.frombuffer(into, np.float32)
        if len(out):
            # What is not finite is the caller's to find and to name, who looks at the results anyway.
            with np.errstate(over="ignore", invalid="ignore"):
                if isinstance(source, LowRank):
                    self._low_rank(source, at, out)
                elif isinstance(source, Stacked):
                    self._stacked(source, at, out)
                else:
                    self._summed(source, at, out)

    def _low_rank(self, source: LowRank, at: int, out: "Floats") -> None:
        out[:] = self._elements(source.base, at, len(out))
        rows, columns = source.shape
        step, end = max(2, _BLOCK // columns), at + len(out)
        for first in range(at // columns // step * step, -(-end // columns), step):
            product, start = self._product(source, first, min(first + step, rows)), first * columns
            begin, stop = max(at, start), min(end, start + len(product))
            out[begin - at : stop - at] += product[begin - start : stop - start]

    def _multiply(self, source: LowRank, begin: int, end: int) -> "Floats":
        """Rows `begin` to `end` of scale * B @ A or its transpose, flat."""
        product = self._left(source, begin, end) @ self._right(source)
        product *= source.scale
        return product.reshape(-1)

    def _left(self, source: LowRank, begin: int, end: int) -> "Floats":
        """Rows `begin` to `end` of the product's left-hand factor: B, or A transposed."""
        import numpy as np

        if not source.transposed:
            rank = source.b.shape[1]
            return self._elements(source.b, begin * rank, (end - begin) * rank).reshape(-1, rank)
        rank, columns = source.a.shape
        left = np.empty((end - begin, rank), np.float32)
        for k in range(rank):
            left[:, k] = self._elements(source.a, k * columns + begin, end - begin)
        return left

    def _read_right(self, source: LowRank) -> "Floats":
        """The product's right-hand factor: A, or B transposed."""
        import numpy as np

        factor = source.b if source.transposed else source.a
        whole = self._elements(factor, 0, factor.elements).reshape(factor.shape)
        return np.ascontiguousarray(whole.T) if source.transposed else whole

    def _stacked(self, source: Stacked, at: int, out: "Floats") -> None:
        import numpy as np

        columns, end = source.shape[1], at + len(out)
        if source.axis == 0:
            start = 0
            for part in source.parts:
                begin, stop = max(at, start), min(end, start + part.tensor.elements)
                if begin < stop:
                    out[begin - at : stop - at] = self._scaled(part, begin - start, stop - begin)
                start += part.tensor.elements
            return
        first, last = at // columns, -(-end // columns)
        rows = [
            self._scaled(part, first * width, (last - first) * width).reshape(-1, width)
            for part in source.parts
            for width in (part.tensor.shape[1],)
        ]
        out[:] = np.concatenate(rows, axis=1).reshape(-1)[at - first * columns : end - first * columns]

    def _summed(self, source: Summed, at: int, out: "Floats") -> None:
        first, *others = source.parts
        out[:] = self._scaled(first, at, len(out))
        for part in others:
            out += self._scaled(part, at, len(out))

    def _scaled(self, part: Part, at: int, count: int) -> "Floats":
        import numpy as np

        return self._elements(part.tensor, at, count) * np.float32(part.factor)

    def _elements(self, tensor: Tensor, at: int, count: int) -> "Floats":
        """`count` elements of a float tensor from the flat index `at` on, as float32."""
        import numpy as np

        raw = bytearray(count * tensor.item_bytes)
        self._read(tensor, at * tensor.item_bytes, memoryview(raw))
        if tensor.dtype == "BF16":
            # bfloat16 is the upper half of float32.
            return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        dtype = {"F64": np.float64, "F32": np.float32, "F16": np.float16}[tensor.dtype]
        return np.frombuffer(raw, dtype).astype(np.float32, copy=False)
