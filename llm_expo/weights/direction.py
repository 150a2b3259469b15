"""The pair (initial = theta0, aligned = theta1) and whether it may be extrapolated. Reads headers, no tensor.

Knows nothing of alpha: what is done along the direction is in extrapolation.py, how far the two lie apart in
comparison.py.
"""

import os
from dataclasses import dataclass

from llm_expo.checkpoints.checkpoint import Checkpoint, Tensor
from llm_expo.checkpoints.files import shown
from llm_expo.errors import MismatchError

# As many as still can be read in one line of an error.
_NAMED = 12


@dataclass(frozen=True, slots=True)
class Direction:
    """From `initial` (theta0, the SFT model) to `aligned` (theta1, the same model after preference training)."""

    initial: Checkpoint
    aligned: Checkpoint

    @classmethod
    def open(cls, initial: str | os.PathLike[str], aligned: str | os.PathLike[str]) -> "Direction":
        """Open both folders. Raises CheckpointError for a folder that cannot be read; does not compare the two."""
        return cls(Checkpoint.open(initial), Checkpoint.open(aligned))

    def mismatches(self) -> list[str]:
        """What keeps the two from being extrapolated, a line for each tensor; empty when nothing does.

        Two float types that differ are no mismatch: the arithmetic is float32's, and theta1's type is the result's.
        """
        initial, aligned = self.initial.tensors, self.aligned.tensors
        found = [
            f"{shown(name)}: {what}"
            for name, tensor in aligned.items()
            if (what := _mismatch(initial.get(name), tensor)) is not None
        ]
        return found + [f"{shown(name)}: only in theta0" for name in initial if name not in aligned]

    def check(self) -> None:
        """Raise MismatchError, which names every mismatch up to a readable number and the way out, if there is one."""
        found = self.mismatches()
        if not found:
            return
        more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
        raise MismatchError(
            f"theta0 {shown(self.initial.path)} and theta1 {shown(self.aligned.path)} do not match in {len(found)} "
            f"of {len(self.aligned.tensors)} tensors: {'; '.join(found[:_NAMED] + more)}. {self._way_out()}"
        )

    def _way_out(self) -> str:
        initial, aligned = self.initial.tensors, self.aligned.tensors
        shared = [(initial[name], tensor) for name, tensor in aligned.items() if name in initial]
        if any(_rows_differ(a, b) for a, b in shared):
            return "Where only the number of rows differs, a vocabulary grew: give both models the same one"
        if len({*initial} ^ {*aligned}) == 1 and all(a.shape == b.shape for a, b in shared):
            return "One tensor too many often means tied embeddings on one side only: save both models the same way"
        return "theta0 must be the very checkpoint from which the training of theta1 began"


def _mismatch(initial: Tensor | None, aligned: Tensor) -> str | None:
    if initial is None:
        return "only in theta1"
    if initial.shape != aligned.shape:
        return f"shape {list(initial.shape)} in theta0, {list(aligned.shape)} in theta1"
    if initial.dtype != aligned.dtype and not (initial.is_float and aligned.is_float):
        return f"{initial.dtype} in theta0, {aligned.dtype} in theta1"
    return None


def _rows_differ(initial: Tensor, aligned: Tensor) -> bool:
    return initial.shape[:1] != aligned.shape[:1] and initial.shape[1:] == aligned.shape[1:] and len(aligned.shape) > 1
