"""Keeping theta1 as the place of theta0 and the difference from it in bfloat16, and what that keeps of the direction.

checkpoints/difference.py describes the folder, and reads it. It is written like any other output: a plan whose steps
calculate theta1 - theta0 in float32 and round once. What storage in 16 bits does to the direction, two numbers tell:

    share = <stored - theta0, theta1 - theta0> / |theta1 - theta0|^2,
    noise = |stored - theta1| / |theta1 - theta0|.

The share alone does not tell: the noise of rounding is at right angles to the direction on average, so a share of 1 can
go with noise of several times the direction's length. Knows nothing of training.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.calculated import Part, Summed
from llm_expo.checkpoints.difference import APART, DTYPE, FORMAT, WHOLE, can_be_difference, file_names
from llm_expo.checkpoints.files import read_bytes, shown
from llm_expo.checkpoints.header import BITS, Tensor, laid_out
from llm_expo.checkpoints.layout import DIFFERENCE_NAME
from llm_expo.checkpoints.origins import described
from llm_expo.checkpoints.reader import CHUNK, Buffer, Reader
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import CheckpointError, MismatchError
from llm_expo.weights.direction import Direction
from llm_expo.weights.extrapolation import Copy, Extrapolation, Move, OutputFile, Step
from llm_expo.weights.kernel import Rounding, distance, step
from llm_expo.weights.tally import Tally
from llm_expo.weights.writing import write

_ABOUT = (
    "theta1 as the difference from theta0, in bfloat16; llm-expo apply THIS_FOLDER --alpha 0 --dtype float32 --out DIR "
    "writes the whole model"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What one way of storing theta1 does to the direction; nine digits, as the sums have."""

    share: float  # the projection of stored - theta0 on theta1 - theta0, in units of it; 1: nothing is lost on average
    noise: float  # |stored - theta1| / |theta1 - theta0|; 0: nothing is lost

    @property
    def cosine(self) -> float:
        """Of stored - theta0 and theta1 - theta0; 0 where all weights went back to theta0."""
        squared = 2 * self.share - 1 + self.noise**2  # |stored - theta0|^2 / |theta1 - theta0|^2
        return min(1.0, max(-1.0, self.share / sqrt(squared))) if squared > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What two ways of storing theta1 keep of theta1 - theta0, over the float tensors that both have.

    None where theta0 and theta1 do not differ.
    """

    difference: Stored | None  # as a difference in bfloat16
    bfloat16: Stored | None  # as weights in bfloat16


@dataclass(frozen=True, slots=True)
class WrittenDifference:
    """What was written."""

    path: Path
    differences: int  # tensors
    whole: int  # tensors that are theta1's own
    nbytes: int  # of all files
    kept: Kept
    warnings: tuple[str, ...]  # what hints at the wrong pair


def write_difference(
    initial: Checkpoint,
    aligned: Checkpoint,
    out: str | os.PathLike[str],
    progress: Callable[[int], None] | None = None,
    *,
    workers: int | None = None,
) -> WrittenDifference:
    """Write theta1 (`aligned`) to the new folder `out`, as its difference from theta0 (`initial`).

    Tensors that are no difference (in theta1 only, of another shape, no floats, float64) are copied. What lies beside
    theta1's weights comes along, its llm_expo.json too, since it is the same model; config.json says float32, which
    the sum is. theta0 has to stay where it is, or be given whenever the model is read.

    progress, workers, memory, what a killed run leaves: see `write`.

    Raises CheckpointError where a side is an adapter or a difference itself, and where a weight is NaN or infinite,
    MismatchError where no tensor is a difference, OutputError as `write` does.
    """
    direction = Direction(initial, aligned)
    planned = plan_difference(direction)
    kept = share_kept(direction)
    written = write(planned, out, progress, workers=workers)
    differences = sum(isinstance(step, Move) for step in planned.steps)
    return WrittenDifference(
        written.path, differences, len(planned.steps) - differences, written.nbytes, kept, written.warnings
    )


def plan_difference(direction: Direction) -> Extrapolation:
    """The plan of `write_difference`: theta1's files under other names, their tensors in the same order."""
    _refuse_calculated(direction)
    initial, aligned = direction.initial, direction.aligned
    summed = _differences(direction)
    if not summed:
        raise MismatchError(
            f"theta0 {shown(initial.path)} and theta1 {shown(aligned.path)} have no float tensor of one name and shape "
            "in common: there is no difference to keep, keep theta1 whole"
        )
    names = list(file_names(len(aligned.files)))
    files = []
    for name, shard in zip(names, aligned.files, strict=True):
        stored = [
            (APART + tensor.name, DTYPE, tensor.shape)
            if tensor.name in summed
            else (WHOLE + tensor.name, tensor.dtype, tensor.shape)
            for tensor in shard.tensors
        ]
        header, targets = laid_out(Path(name), stored)
        steps: list[Step] = []
        for target, tensor in zip(targets, shard.tensors, strict=True):
            source = summed.get(tensor.name)
            if source is None:
                steps.append(Copy(target, tensor, "no difference from theta0: theta1's"))
            else:
                steps.append(Move(target, source, source, 0.0, "theta1 - theta0"))
        files.append(OutputFile(name, header, tuple(steps)))
    record = {
        "about": _ABOUT,
        "format": FORMAT,
        "initial": described(initial),
        "files": names,
    }
    made = {DIFFERENCE_NAME: f"{json.dumps(record, indent=2)}\n".encode()}
    if (aligned.path / PROVENANCE_NAME).exists():
        made[PROVENANCE_NAME] = read_bytes(aligned.path / PROVENANCE_NAME)
    how = "theta1 as the difference from theta0, in bfloat16"
    return Extrapolation(direction, 0.0, "float32", Rounding(), tuple(files), None, {"output": how}, (), made=made)


def _differences(direction: Direction) -> Mapping[str, Summed]:
    """theta1 - theta0 in float32 for every tensor that can be kept so, by its name."""
    found = {}
    for name, tensor in direction.aligned.tensors.items():
        base = direction.initial.tensors.get(name)
        if isinstance(base, Tensor) and isinstance(tensor, Tensor) and can_be_difference(base, tensor):
            found[name] = Summed(name, (Part(base, -1.0), Part(tensor, 1.0)))
    return found


def share_kept(direction: Direction) -> Kept:
    """Read both checkpoints once, and say what storing theta1 in 16 bits keeps of the direction.

    theta1 has to be at hand in more than 16 bits: of weights that were rounded before, all is kept. Memory does not
    grow with the model. Raises CheckpointError for an input that cannot be read, changes meanwhile, is NaN or infinite,
    or is an adapter or a difference itself.
    """
    _refuse_calculated(direction)
    difference, plain = Tally(), Tally()
    lost_apart = lost_plain = 0.0  # |stored - theta1|^2
    before, after, apart, rounded, zero = (Buffer() for _ in range(5))
    with Reader((*direction.initial.shards, *direction.aligned.shards)) as reader:
        for source in _differences(direction).values():
            initial, aligned = (part.tensor for part in source.parts)
            for at in range(0, source.elements, CHUNK):
                count = min(CHUNK, source.elements - at)
                sides = *reader.elements(initial, at, count, before), *reader.elements(aligned, at, count, after)
                way, way_dtype = reader.elements(source, at, count, apart)
                out = rounded.bytes[: count * BITS[DTYPE] // 8]
                # At alpha 0 the result is theta1, rounded: <result - theta1, theta1 - theta0> is what that loses.
                part, bad = step(*sides, out, DTYPE, 0.0)
                if bad is None:
                    plain += part
                    lost_plain += distance(*sides[2:], out, DTYPE)[0].squared
                    part, bad = step(zero.bytes[: len(way)], way_dtype, way, way_dtype, out, DTYPE, 0.0)
                if bad is None:
                    difference += part
                    lost_apart += distance(way, way_dtype, out, DTYPE)[0].squared
                if bad is not None:
                    raise CheckpointError(
                        f"{shown(aligned.file)}: {shown(source.name)} has no difference from theta0's "
                        f"({shown(initial.file)}) at index {source.position(at + bad)}: one is NaN or infinite, "
                        "or they are too far apart"
                    )
        reader.check_unchanged()
    return Kept(_stored(difference, lost_apart), _stored(plain, lost_plain))


def _stored(tally: Tally, lost: float) -> Stored | None:
    if tally.realised_alpha is None:
        return None
    return Stored(1 + tally.realised_alpha, float(f"{sqrt(lost / tally.squared):.9g}"))


def _refuse_calculated(direction: Direction) -> None:
    for side, checkpoint in (("theta0", direction.initial), ("theta1", direction.aligned)):
        if not checkpoint.is_whole:
            raise CheckpointError(
                f"{shown(checkpoint.folders[-1])}: {side} is an adapter or a difference itself; write it whole first, "
                "with llm-expo apply ... --alpha 0 (--merge, for an adapter)"
            )
