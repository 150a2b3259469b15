"""Tensors of files, a chunk at a time, in memory that does not grow with the model.

One reader serves both sides of a direction. It notices when a file is no longer the one whose header was read. Knows
nothing of alpha; writing.py and comparison.py share it.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from llm_expo.checkpoints.checkpoint import Checkpoint, Shard, Tensor
from llm_expo.checkpoints.files import open_regular, read_exactly, shown
from llm_expo.errors import CheckpointError
from llm_expo.weights.kernel import first_not_finite

# Elements at a time. From 128 Ki to 1 Mi the time is alike: page-cache copies bound it.
CHUNK = 1 << 18

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Buffer:
    """Page-aligned memory for one chunk of any dtype, used again for every chunk."""

    def __init__(self, nbytes: int = CHUNK * 8) -> None:
        self._memory = mmap.mmap(-1, nbytes)
        self.bytes = memoryview(self._memory)

    def tensor(self, dtype: str, elements: int) -> torch.Tensor:
        """The buffer's first `elements` as a flat tensor; it is overwritten with the buffer."""
        return torch.frombuffer(self._memory, dtype=TORCH_DTYPES[dtype], count=elements)


class Reader:
    """Reads the tensors of some checkpoints. A context manager: leaving it closes the files."""

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self._shards = {shard.path: shard for checkpoint in checkpoints for shard in checkpoint.files}
        self._open: dict[Path, int] = {}
        self._first, self._second = Buffer(), Buffer()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def raw(self, tensor: Tensor) -> Iterator[tuple[int, memoryview]]:
        """The tensor's bytes: (offset in the tensor, a chunk that is valid until the next one is asked for)."""
        for at in range(0, tensor.nbytes, len(self._first.bytes)):
            view = self._first.bytes[: min(len(self._first.bytes), tensor.nbytes - at)]
            read_exactly(self._fd(tensor.file), view, tensor.start + at, tensor.file)
            yield at, view

    def pairs(self, initial: Tensor, aligned: Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Two float tensors of one shape, side by side: (index of the chunk's first element, theta0's, theta1's).

        The chunks are flat, of each side's own dtype, and valid until the next ones are asked for.
        """
        for at in range(0, aligned.elements, CHUNK):
            count = min(CHUNK, aligned.elements - at)
            yield at, self._chunk(initial, at, count, self._first), self._chunk(aligned, at, count, self._second)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file that was read has changed in size or modification time since."""
        for path, fd in self._open.items():
            _check_unchanged(self._shards[path], os.fstat(fd))

    def _chunk(self, tensor: Tensor, at: int, count: int, buffer: Buffer) -> torch.Tensor:
        size = tensor.nbytes // tensor.elements
        read_exactly(self._fd(tensor.file), buffer.bytes[: count * size], tensor.start + at * size, tensor.file)
        return buffer.tensor(tensor.dtype, count)

    def _fd(self, path: Path) -> int:
        if path not in self._open:
            fd = open_regular(path)
            self._open[path] = fd
            _check_unchanged(self._shards[path], os.fstat(fd))
        return self._open[path]


def _check_unchanged(shard: Shard, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.modified_ns):
        raise CheckpointError(f"{shown(shard.path)}: changed while it was being read")


def refuse_not_finite(side: str, tensor: Tensor, at: int, chunk: torch.Tensor) -> None:
    """Raise CheckpointError if a chunk, whose first element is the tensor's `at`-th, holds NaN or infinity."""
    bad = first_not_finite(chunk)
    if bad is not None:
        raise CheckpointError(
            f"{shown(tensor.file)} ({side}): {shown(tensor.name)} holds {float(chunk[bad])} "
            f"at index {tensor.position(at + bad)}"
        )
