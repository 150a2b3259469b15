"""Carries out a plan's steps: tensor by tensor, chunk by chunk, into one output file.

Knows nothing of the output folder's fate (partial.py) or of the files beside the weights (writing.py).
"""

import os
from collections.abc import Callable

import torch

from llm_expo.checkpoints.files import shown
from llm_expo.errors import CheckpointError, ExpoError
from llm_expo.weights.extrapolation import Copy, Move, OutputFile
from llm_expo.weights.kernel import extrapolate, first_not_finite
from llm_expo.weights.reader import CHUNK, Buffer, Reader, refuse_not_finite
from llm_expo.weights.tally import Measure, Tally


def write_exactly(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view` from `offset` on. Raises OSError."""
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def stream_file(file: OutputFile, fd: int, reader: Reader, progress: Callable[[int], None]) -> Tally:
    """Write one file of the plan to `fd` and tally its moved tensors; `progress` is told of the bytes as they go.

    Raises CheckpointError for an input that cannot be read, has changed, or holds NaN or infinity where it is moved,
    ExpoError for a result that overflows, OSError from writing.
    """
    write_exactly(fd, memoryview(file.header), 0)
    progress(len(file.header))
    tally, measure, buffer = Tally(), Measure(CHUNK), Buffer()
    for step in file.steps:
        if isinstance(step, Move):
            tally += _move(step, fd, reader, buffer, measure, progress)
        else:
            _copy(step, fd, reader, progress)
    return tally


def _copy(step: Copy, fd: int, reader: Reader, progress: Callable[[int], None]) -> None:
    for at, view in reader.raw(step.source):
        write_exactly(fd, view, step.target.start + at)
        progress(len(view))


def _move(
    step: Move, fd: int, reader: Reader, buffer: Buffer, measure: Measure, progress: Callable[[int], None]
) -> Tally:
    tally = Tally()
    for at, initial, aligned in reader.pairs(step.initial, step.aligned):
        result = extrapolate(initial, aligned, step.alpha, buffer.tensor(step.target.dtype, len(aligned)))
        # NaN and infinity come through from either input, so this one look covers all three.
        if first_not_finite(result) is not None:
            raise _not_finite(step, at, initial, aligned, result)
        view = buffer.bytes[: len(result) * result.element_size()]
        write_exactly(fd, view, step.target.start + at * result.element_size())
        tally += measure.step(initial, aligned, result)
        progress(len(view))
    return tally


def _not_finite(step: Move, at: int, initial: torch.Tensor, aligned: torch.Tensor, result: torch.Tensor) -> ExpoError:
    try:
        refuse_not_finite("theta0", step.initial, at, initial)
        refuse_not_finite("theta1", step.aligned, at, aligned)
    except CheckpointError as error:
        return error
    bad = first_not_finite(result) or 0
    return ExpoError(
        f"{shown(step.target.name)} overflows {step.target.dtype} at index {step.target.position(at + bad)} "
        f"with alpha {step.alpha:g}: {float(initial[bad]):g} in {shown(step.initial.file)}, {float(aligned[bad]):g} in "
        f"{shown(step.aligned.file)}; a smaller alpha may fit"
    )
