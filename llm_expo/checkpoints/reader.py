"""Tensors of files, a chunk at a time, in memory that does not grow with the model. Several threads may share a Reader.

It notices when a file is no longer the one whose header was read. Knows nothing of what is calculated.
"""

import mmap
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from llm_expo.checkpoints.calculated import Calculator, Source
from llm_expo.checkpoints.files import open_regular, read_exactly, shown
from llm_expo.checkpoints.header import Shard, Tensor
from llm_expo.errors import CheckpointError

# Elements at a time: three chunks of the widest type fit into a second-level cache, and a system call costs nothing
# beside them.
CHUNK = 1 << 18


class Buffer:
    """Page-aligned memory for one chunk of any dtype, used again for every chunk."""

    def __init__(self, nbytes: int = CHUNK * 8) -> None:
        self.bytes = memoryview(mmap.mmap(-1, nbytes))


class Reader:
    """Reads the tensors of some files. A context manager: leaving it closes the files."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._shards = {shard.path: shard for shard in shards}
        self._calculator = Calculator(self.read)
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def read(self, tensor: Tensor, offset: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from `offset` (bytes, from its beginning) on."""
        read_exactly(self._fd(tensor.file), into, tensor.start + offset, tensor.file)

    def elements(self, source: Source, at: int, count: int, buffer: Buffer) -> tuple[memoryview, str]:
        """`count` elements from the flat index `at` on: their bytes and dtype, valid until the buffer is used again."""
        if isinstance(source, Tensor):
            size = source.item_bytes
            view = buffer.bytes[: count * size]
            self.read(source, at * size, view)
            return view, source.dtype
        view = buffer.bytes[: count * 4]
        self._calculator.read(source, at, view)
        return view, "F32"

    def prefetch(self, tensor: Tensor, offset: int, nbytes: int) -> None:
        """Tell the operating system that these bytes are wanted soon."""
        if sys.platform == "linux":  # macOS has no such call
            os.posix_fadvise(self._fd(tensor.file), tensor.start + offset, nbytes, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file that was read has changed in size or modification time since."""
        for path, fd in self._open.items():
            _check_unchanged(self._shards[path], os.fstat(fd))

    def _fd(self, path: Path) -> int:
        fd = self._open.get(path)
        if fd is None:
            with self._lock:
                fd = self._open.get(path)
                if fd is None:
                    fd = open_regular(path)
                    self._open[path] = fd
                    _check_unchanged(self._shards[path], os.fstat(fd))
        return fd


def _check_unchanged(shard: Shard, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.modified_ns):
        raise CheckpointError(f"{shown(shard.path)}: changed while it was being read")


def same_bytes(shards: Iterable[Shard], one: Source, other: Source) -> bool:
    """Whether two tensors of these files are the same in dtype, shape and all bytes; what is calculated is not."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if (one.file, one.start) == (other.file, other.start):  # a pickle's tied tensors share their bytes
        return True
    first, second = Buffer(), Buffer()
    with Reader(shards) as reader:
        for at in range(0, one.nbytes, len(first.bytes)):
            count = min(len(first.bytes), one.nbytes - at)
            reader.read(one, at, first.bytes[:count])
            reader.read(other, at, second.bytes[:count])
            if first.bytes[:count] != second.bytes[:count]:
                return False
    return True
