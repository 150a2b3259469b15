"""The plan at one alpha: a step for every tensor of theta1, and the files to write. Pure: no input, no output.

theta1's headers drive it; there is no list of architectures. stream.py carries the steps out.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from llm_expo.checkpoints.checkpoint import Tensor
from llm_expo.checkpoints.files import shown
from llm_expo.errors import CheckpointError, ExpoError
from llm_expo.weights.direction import Direction

# The kernel's arithmetic is float32: beyond this, alpha itself is infinite.
_LARGEST_ALPHA = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Move:
    """target = aligned + alpha * (aligned - initial). The target's file is relative to the output folder."""

    action: ClassVar[Literal["move"]] = "move"
    target: Tensor
    initial: Tensor
    aligned: Tensor
    alpha: float

    @property
    def reason(self) -> str:
        if self.initial.dtype == self.aligned.dtype:
            return f"{self.aligned.dtype}, alpha {self.alpha:g}"
        return f"{self.initial.dtype} to {self.aligned.dtype}, alpha {self.alpha:g}"


@dataclass(frozen=True, slots=True)
class Copy:
    """target = source, byte for byte."""

    action: ClassVar[Literal["copy"]] = "copy"
    target: Tensor
    source: Tensor
    reason: str


Step = Move | Copy


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A safetensors file to write: its header, and then what the steps put behind it."""

    name: str
    header: bytes
    size: int
    steps: tuple[Step, ...]  # in the order of their bytes; they cover the file behind the header exactly


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """What is written for theta(alpha), and why."""

    direction: Direction
    alpha: float
    files: tuple[OutputFile, ...]
    index: bytes | None  # the content of model.safetensors.index.json, None for a single file

    @property
    def steps(self) -> tuple[Step, ...]:
        """A step for every tensor of theta1, in the order in which they are written."""
        return tuple(step for file in self.files for step in file.steps)

    @property
    def moved(self) -> int:
        """Number of tensors that are calculated."""
        return sum(step.action == "move" for step in self.steps)

    @property
    def copied(self) -> int:
        """Number of tensors that are copied."""
        return sum(step.action == "copy" for step in self.steps)

    @property
    def nbytes(self) -> int:
        """Bytes to write: weights and index, without the small files that come along."""
        return sum(file.size for file in self.files) + len(self.index or b"")


def plan(direction: Direction, alpha: float) -> Extrapolation:
    """Plan theta(alpha) in theta1's own layout: its files, its headers, its dtypes.

    Float tensors are moved; all others are copied from theta1. At alpha 0 everything is copied from theta1, and at -1
    every float tensor of equal dtype from theta0, so that both are exact.

    Raises MismatchError for two checkpoints that do not belong together, CheckpointError where there is no float
    tensor, ExpoError for an alpha that is not finite.
    """
    alpha = float(alpha)
    if not math.isfinite(alpha) or abs(alpha) > _LARGEST_ALPHA:
        raise ExpoError(f"alpha must be a finite number in float32's range, not {alpha:g}")
    direction.check()
    if not any(tensor.is_float for tensor in direction.aligned.tensors.values()):
        dtypes = sorted({tensor.dtype for tensor in direction.aligned.tensors.values()})
        raise CheckpointError(
            f"{shown(direction.aligned.path)}: nothing to extrapolate, no tensor is F64, F32, F16 or BF16, "
            f"only {', '.join(dtypes)}"
        )
    files = tuple(
        OutputFile(
            name=shard.path.name,
            header=shard.header,
            size=shard.size,
            steps=tuple(_step(direction.initial.tensors[tensor.name], tensor, alpha) for tensor in shard.tensors),
        )
        for shard in direction.aligned.files
    )
    return Extrapolation(direction, alpha, files, direction.aligned.index)


def _step(initial: Tensor, aligned: Tensor, alpha: float) -> Step:
    target = Tensor(aligned.name, aligned.dtype, aligned.shape, Path(aligned.file.name), aligned.start, aligned.stop)
    if not aligned.is_float:
        return Copy(target, aligned, f"{aligned.dtype} is no float type: theta1's")
    if alpha == 0:
        return Copy(target, aligned, "alpha 0 is theta1")
    if alpha == -1 and initial.dtype == aligned.dtype:
        return Copy(target, initial, "alpha -1 is theta0")
    return Move(target, initial, aligned, alpha)
