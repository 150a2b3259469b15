"""One safetensors file, seen through its header: which tensor lies where. Reads no tensor.

The format (https://github.com/huggingface/safetensors): 8 bytes, little-endian, the header's length N; N bytes of JSON,
tensor name -> {"dtype", "shape", "data_offsets": [begin, end]} with offsets counted from the header's end; then the
tensors' bytes, which must cover the rest of the file without hole or overlap. This parser is as strict as the reference
one: what it lets through is whole. Knows nothing of folders, indexes or arithmetic.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_expo.checkpoints.files import LARGEST_JSON, open_regular, parse_json, read_exactly, shown
from llm_expo.errors import CheckpointError

# Bits per element of every dtype that the format knows (safetensors 0.8).
BITS = {
    "BOOL": 8,
    **{"U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
# The dtypes that are numbers to calculate with. The others are codes, counters and masks, whose sums mean nothing.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# Numbers all the same, of which only copies can be made: other floats, and packed ones.
_OTHER_NUMBERS = frozenset(dtype for dtype in BITS if dtype[0] in "FC") - FLOATS
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: bytes `start` to `stop` of `file`, counted from the file's beginning."""

    name: str
    dtype: str  # as in safetensors, such as "BF16"
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def elements(self) -> int:
        return self.nbytes * 8 // BITS[self.dtype]

    def position(self, index: int) -> list[int]:
        """An index into the flattened tensor as one into its shape."""
        found = []
        for extent in reversed(self.shape):
            index, inner = divmod(index, extent)
            found.append(inner)
        return found[::-1]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element of a dtype that fills whole bytes."""
        return BITS[self.dtype] // 8

    @property
    def is_float(self) -> bool:
        """Whether it can be extrapolated."""
        return self.dtype in FLOATS

    @property
    def is_number(self) -> bool:
        """Whether it is a weight, though not one to calculate with: float8 and the like, complex."""
        return self.dtype in _OTHER_NUMBERS

    def rows(self, start: int, stop: int) -> "Tensor":
        """Rows `start` to `stop` of the tensor, which lie in one piece."""
        row = self.nbytes // self.shape[0]
        return replace(
            self, shape=(stop - start, *self.shape[1:]), start=self.start + start * row, stop=self.start + stop * row
        )


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file at the moment its header was read."""

    path: Path
    header: bytes = field(repr=False)  # the first 8 + N bytes, as they stand in the file
    size: int
    modified_ns: int
    tensors: tuple[Tensor, ...] = field(repr=False)  # in the order of their bytes

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Read and check the header of a safetensors file.

        Raises CheckpointError, naming file and tensor, for a file that is truncated or too long, a header that is
        longer than the file or is not valid, an unknown dtype, and offsets that do not fit the shapes, overlap or leave
        a hole.
        """
        fd = open_regular(path)
        try:
            status = os.fstat(fd)
            header = _header_bytes(fd, status.st_size, path)
        finally:
            os.close(fd)
        tensors = _tensors(header, status.st_size, path)
        return cls(path, header, status.st_size, status.st_mtime_ns, tensors)


def laid_out(file: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, list[Tensor]]:
    """The first bytes of a new `file` with these tensors, (name, dtype, shape), in this order, and where they will lie.

    As the reference library writes it, tensors begin at a multiple of 8 bytes.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # by which transformers knows it
    found, end = [], 0
    for name, dtype, shape in tensors:
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        found.append(Tensor(name, dtype, shape, file, begin, end))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    placed = [replace(tensor, start=base + tensor.start, stop=base + tensor.stop) for tensor in found]
    return len(text).to_bytes(8, "little") + text, placed


def _header_bytes(fd: int, size: int, path: Path) -> bytes:
    if size < 8:
        raise CheckpointError(f"{shown(path)}: truncated, {size} bytes cannot hold a safetensors header")
    start = bytearray(8)
    read_exactly(fd, memoryview(start), 0, path)
    if start == b"version ":
        raise CheckpointError(f"{shown(path)}: is a git-lfs pointer, not the weights; fetch them with: git lfs pull")
    length = int.from_bytes(start, "little")
    if length > LARGEST_JSON:
        raise CheckpointError(
            f"{shown(path)}: not a safetensors file, its header would have {length} bytes (at most {LARGEST_JSON})"
        )
    if 8 + length > size:
        raise CheckpointError(f"{shown(path)}: truncated, the header alone has {8 + length} bytes, the file {size}")
    header = bytearray(8 + length)
    read_exactly(fd, memoryview(header), 0, path)
    if header[8:9] != b"{":
        raise CheckpointError(f"{shown(path)}: not a safetensors file, its header does not begin with a brace")
    return bytes(header)


def _tensors(header: bytes, size: int, path: Path) -> tuple[Tensor, ...]:
    """The header's entries in the order of their bytes, once they are known to cover the file exactly."""
    entries = parse_json(header[8:], f"{shown(path)}: the header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{shown(path)}: __metadata__ is not a table of strings")
    tensors = sorted(
        (_tensor(name, entry, len(header), path) for name, entry in entries.items()),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    end, before = len(header), "the header"
    for tensor in tensors:
        if tensor.stop > size:
            raise CheckpointError(
                f"{shown(path)}: truncated, {shown(tensor.name)} ends at byte {tensor.stop}, the file has {size}"
            )
        if tensor.start < end:
            raise CheckpointError(f"{shown(path)}: {shown(tensor.name)} overlaps {shown(before)}")
        if tensor.start > end:
            raise CheckpointError(f"{shown(path)}: a hole of {tensor.start - end} bytes before {shown(tensor.name)}")
        end, before = tensor.stop, tensor.name
    if end < size:
        raise CheckpointError(f"{shown(path)}: {size - end} bytes after {shown(before)} belong to no tensor")
    return tuple(tensors)


def _tensor(name: str, entry: object, base: int, path: Path) -> Tensor:
    """One entry of the header; `base` is where the tensors' bytes begin."""
    if not isinstance(entry, dict):
        raise _refusal(path, name, "its header entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), _integers(entry.get("shape")), _integers(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _refusal(path, name, f"unknown dtype {shown(dtype)}")
    if shape is None:
        raise _refusal(path, name, "its shape is not a list of sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _refusal(path, name, "its data_offsets are not [begin, end]")
    bits = BITS[dtype]
    for extent in shape:
        bits *= extent or 1  # an extent of 0 does not excuse an absurd one
        if bits > _LARGEST_INTEGER:  # stops early, so that a million absurd extents cost nothing
            raise _refusal(path, name, f"shape {shown(list(shape))} is too large")
    if 0 in shape:
        bits = 0
    begin, end = offsets
    if bits != 8 * (end - begin):
        what = f"{dtype} of shape {shown(list(shape))} needs {bits / 8:g} bytes, has {end - begin}"
        raise _refusal(path, name, what)
    return Tensor(name, dtype, shape, path, base + begin, base + end)


def _refusal(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{shown(path)}: {shown(name)}: {what}")


def _integers(value: object) -> tuple[int, ...] | None:
    """A JSON list of integers in the format's range, or None."""
    if not isinstance(value, list):
        return None
    for item in value:
        # `type is int`: true and false are ints to Python
        if type(item) is not int or not 0 <= item <= _LARGEST_INTEGER:
            return None
    return tuple(value)
