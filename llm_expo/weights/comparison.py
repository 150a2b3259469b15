"""How far theta0 and theta1 lie apart, and what differs beside the weights: one streaming pass. Writes nothing.

The norms are those of the paper's Table 1 (arXiv 2404.16792). Knows nothing of alpha, and judges nothing.
"""

import math
from dataclasses import dataclass

from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.reader import CHUNK, Buffer, Reader
from llm_expo.checkpoints.sidefiles import FileDifference, differences
from llm_expo.errors import CheckpointError
from llm_expo.weights.direction import Direction
from llm_expo.weights.kernel import distance
from llm_expo.weights.tally import Distance

_MOVERS = 5


@dataclass(frozen=True, slots=True)
class Mover:
    """One tensor's way from theta0 to theta1."""

    name: str
    norm: float  # Frobenius norm of theta1 - theta0
    relative: float | None  # to the norm of theta0's tensor; None where that is zero


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the two checkpoints of a direction are to each other.

    Norms and counts are over the float tensors that both have in the same shape; whatever else differs is in
    `mismatches`.
    """

    tensors: int  # compared
    elements: int  # compared
    norm: float  # Frobenius norm of theta1 - theta0
    norm_initial: float  # Frobenius norm of theta0
    share_differing: float | None  # of the elements; None where none was compared
    movers: tuple[Mover, ...]  # the tensors that moved farthest, by relative norm
    mismatches: tuple[str, ...]  # as in Direction.mismatches
    files: tuple[FileDifference, ...]  # config, tokenizer, chat template ...

    @property
    def norm_per_root_element(self) -> float | None:
        """norm / sqrt(elements): the root mean square change of a weight; None where none was compared."""
        return self.norm / math.sqrt(self.elements) if self.elements else None

    @property
    def norm_relative(self) -> float | None:
        """norm / norm of theta0; None where that is zero."""
        return self.norm / self.norm_initial if self.norm_initial else None


def compare(direction: Direction) -> Comparison:
    """Read both checkpoints once and say how far they lie apart. Mismatches are reported, not raised.

    Raises CheckpointError for an input that cannot be read, changes meanwhile, or holds NaN or infinity.
    """
    files = differences(direction.initial.path, direction.aligned.path)
    found: dict[str, Distance] = {}
    first, second = Buffer(), Buffer()
    with Reader(direction.files) as reader:
        for name, aligned in direction.aligned.tensors.items():
            initial = direction.initial.tensors.get(name)
            if initial is None or initial.shape != aligned.shape or not (initial.is_float and aligned.is_float):
                continue
            found[name] = Distance()
            for at in range(0, aligned.elements, CHUNK):
                count = min(CHUNK, aligned.elements - at)
                before, after = (
                    reader.elements(side, at, count, buffer) for side, buffer in ((initial, first), (aligned, second))
                )
                part, bad = distance(*before, *after)
                if bad is not None:
                    raise CheckpointError(f"{shown(name)} holds NaN or infinity at index {aligned.position(at + bad)}")
                found[name] += part
        reader.check_unchanged()
    total = sum(found.values(), Distance())
    movers = sorted((_mover(name, moved) for name, moved in found.items()), key=_reach, reverse=True)
    return Comparison(
        tensors=len(found),
        elements=total.elements,
        norm=math.sqrt(total.squared),
        norm_initial=math.sqrt(total.squared_initial),
        share_differing=total.differing / total.elements if total.elements else None,
        movers=tuple(mover for mover in movers if mover.norm)[:_MOVERS],
        mismatches=tuple(direction.mismatches()),
        files=files,
    )


def _mover(name: str, moved: Distance) -> Mover:
    norm, norm_initial = math.sqrt(moved.squared), math.sqrt(moved.squared_initial)
    return Mover(name, norm, norm / norm_initial if norm_initial else None)


def _reach(mover: Mover) -> float:
    # From zero, any way is infinitely far.
    return mover.relative if mover.relative is not None else math.inf if mover.norm else 0.0
