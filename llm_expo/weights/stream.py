"""Carries out a plan's steps: span by span on some threads, chunk by chunk, into one output file.

Knows nothing of the output folder's fate (partial.py) or of the files beside the weights (writing.py).
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.header import Tensor
from llm_expo.checkpoints.reader import CHUNK, Buffer, Reader
from llm_expo.errors import CheckpointError, ExpoError
from llm_expo.weights.extrapolation import Copy, Move, OutputFile, Step
from llm_expo.weights.kernel import Rounding, step
from llm_expo.weights.tally import Tally

# Elements (of copies, bytes) of a batch, which one thread works on before it takes the next: enough that handing out
# costs nothing, and few enough that the last ones are not waited for.
BATCH = 1 << 22
# How many batches before it is worked on a batch is asked of the disk.
_AHEAD = 4
_READ = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Span:
    """A run of a step's elements; for a copy, of its bytes."""

    step: Step
    at: int
    count: int

    @property
    def offset(self) -> int:
        """Where it lies in the output file, in bytes."""
        scale = 1 if isinstance(self.step, Copy) else self.step.target.item_bytes
        return self.step.target.start + self.at * scale

    @property
    def nbytes(self) -> int:
        """Its size in the output file."""
        return self.count if isinstance(self.step, Copy) else self.count * self.step.target.item_bytes


@dataclass(frozen=True, slots=True)
class Streamed:
    """One file, written."""

    tally: Tally
    digest: str  # of the header and of the batches' digests (xxh3, 128 bits, hexadecimal)


def stream_file(
    file: OutputFile,
    fd: int,
    reader: Reader,
    *,
    rounding: Rounding,
    let_through: bool,
    workers: int,
    progress: Callable[[int], None],
) -> Streamed:
    """Write one file of the plan to `fd` and tally its moved tensors; `progress` is told of the bytes as they go.

    The result does not depend on the number of workers. Raises CheckpointError for an input that cannot be read, has
    changed, or holds NaN or infinity where it is moved, ExpoError for a result that overflows, OSError from writing.
    """
    write_exactly(fd, memoryview(file.header), 0)
    progress(len(file.header))
    batches = list(_batches(file))
    work = _Worker(fd, reader, rounding, let_through, batches)
    tally, digest = Tally(), xxhash.xxh3_128(file.header)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="llm-expo")
    try:
        for batch, (part, part_digest) in zip(batches, pool.map(work, range(len(batches))), strict=True):
            tally += part
            digest.update(part_digest)
            progress(sum(span.nbytes for span in batch))
    finally:
        pool.shutdown(cancel_futures=True)
    reader.check_unchanged()
    return Streamed(tally, digest.hexdigest())


def digest_file(file: OutputFile, fd: int) -> str:
    """The digest that `stream_file` gave, of the bytes that the file holds now. Raises OSError."""
    digest = xxhash.xxh3_128(os.pread(fd, len(file.header), 0))
    for batch in _batches(file):
        part = xxhash.xxh3_128()
        start, stop = batch[0].offset, batch[-1].offset + batch[-1].nbytes
        for at in range(start, stop, _READ):
            part.update(os.pread(fd, min(_READ, stop - at), at))
        digest.update(part.digest())
    return digest.hexdigest()


def write_exactly(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view` from `offset` on. Raises OSError."""
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def _batches(file: OutputFile) -> Iterator[list[Span]]:
    """The file's bytes behind the header, in pieces: a piece of a large step, or many small steps."""
    batch: list[Span] = []
    room = BATCH
    for each in file.steps:
        total = each.target.nbytes if isinstance(each, Copy) else each.target.elements
        at = 0
        while at < total:
            count = min(room, total - at)
            batch.append(Span(each, at, count))
            at, room = at + count, room - count
            if not room:
                yield batch
                batch, room = [], BATCH
    if batch:
        yield batch


class _Worker:
    """Carries out one batch of spans at a time, on whichever thread calls it."""

    def __init__(
        self, fd: int, reader: Reader, rounding: Rounding, let_through: bool, batches: list[list[Span]]
    ) -> None:
        self._fd = fd
        self._reader = reader
        self._rounding = rounding
        self._let_through = let_through
        self._batches = batches
        self._local = threading.local()

    def __call__(self, index: int) -> tuple[Tally, bytes]:
        if index + _AHEAD < len(self._batches):
            for span in self._batches[index + _AHEAD]:
                self._prefetch(span)
        tally, digest = Tally(), xxhash.xxh3_128()
        for span in self._batches[index]:
            if isinstance(span.step, Copy):
                self._copy(span, span.step, digest)
            else:
                tally += self._move(span, span.step, digest)
        return tally, digest.digest()

    def _buffers(self) -> tuple[Buffer, Buffer, Buffer]:
        found: tuple[Buffer, Buffer, Buffer] | None = getattr(self._local, "buffers", None)
        if found is None:
            found = self._local.buffers = Buffer(), Buffer(), Buffer()
        return found

    def _prefetch(self, span: Span) -> None:
        sides = (span.step.source,) if isinstance(span.step, Copy) else (span.step.initial, span.step.aligned)
        for side in sides:
            if isinstance(side, Tensor):
                scale = 1 if isinstance(span.step, Copy) else side.item_bytes
                self._reader.prefetch(side, span.at * scale, span.count * scale)

    def _copy(self, span: Span, each: Copy, digest: xxhash.xxh3_128) -> None:
        buffer, other, _ = self._buffers()
        for at in range(span.at, span.at + span.count, len(buffer.bytes)):
            view = buffer.bytes[: min(len(buffer.bytes), span.at + span.count - at)]
            self._reader.read(each.source, at, view)
            if each.same_as is not None:
                self._reader.read(each.same_as, at, other.bytes[: len(view)])
                if view != other.bytes[: len(view)]:
                    name = shown(each.source.name)
                    number = "take checkpoints in bfloat16, float16 or float32, or " if each.source.is_number else ""
                    raise CheckpointError(
                        f"{name}: {each.source.dtype} cannot be calculated with, and {shown(each.same_as.file)} and "
                        f"{shown(each.source.file)} differ in it; {number}keep theta1's with --exclude '{name}'"
                    )
            digest.update(view)
            write_exactly(self._fd, view, each.target.start + at)

    def _move(self, span: Span, each: Move, digest: xxhash.xxh3_128) -> Tally:
        target, size = each.target, each.target.item_bytes
        # A tensor in pieces (new rows) is rounded by its position in the piece; the pieces do not overlap.
        key = self._rounding.key(target.name)
        tally = Tally()
        initial_buffer, aligned_buffer, out_buffer = self._buffers()
        for at in range(span.at, span.at + span.count, CHUNK):
            count = min(CHUNK, span.at + span.count - at)
            aligned, aligned_dtype = self._reader.elements(each.aligned, at, count, aligned_buffer)
            initial, initial_dtype = aligned, aligned_dtype
            if each.action == "move":
                initial, initial_dtype = self._reader.elements(each.initial, at, count, initial_buffer)
            out = out_buffer.bytes[: count * size]
            part, bad = step(
                initial,
                initial_dtype,
                aligned,
                aligned_dtype,
                out,
                target.dtype,
                each.alpha,
                stochastic=self._rounding.mode == "stochastic",
                key=key,
                position=at,
                let_through=self._let_through,
            )
            if bad is not None:
                raise self._not_finite(each, at + bad)
            digest.update(out)
            write_exactly(self._fd, out, target.start + at * size)
            if each.action == "move":
                tally += part
        return tally

    def _not_finite(self, each: Move, at: int) -> ExpoError:
        """What is not finite at a flat index of a step: an input, or the result."""
        initial, aligned = (self._value(side, at) for side in (each.initial, each.aligned))
        # theta1 first: where it is only converted, it stands in for theta0.
        for side, source, value in (("theta1", each.aligned, aligned), ("theta0", each.initial, initial)):
            if value - value != 0:  # NaN or infinite
                return CheckpointError(
                    f"{shown(source.file)} ({side}): {shown(source.name)} holds {value} at index "
                    f"{source.position(at)}; --allow-not-finite keeps theta1's value there"
                )
        return ExpoError(
            f"{shown(each.target.name)} overflows {each.target.dtype} at index {each.target.position(at)} with alpha "
            f"{each.alpha:g}: {initial:g} in {shown(each.initial.file)}, {aligned:g} in {shown(each.aligned.file)}; "
            "a smaller alpha may fit, or --dtype float32"
        )

    def _value(self, source: Source, at: int) -> float:
        view, dtype = self._reader.elements(source, at, 1, Buffer(8))
        wide = memoryview(bytearray(8))
        step(view, dtype, view, dtype, wide, "F64", 0.0, let_through=True)
        return float(wide.cast("d")[0])
