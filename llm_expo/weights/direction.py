"""The pair (initial = theta0, aligned = theta1) and whether it may be extrapolated. Knows nothing of alpha."""

import os
from dataclasses import dataclass

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.cards import swapped
from llm_expo.checkpoints.files import shown
from llm_expo.errors import MismatchError
from llm_expo.weights.hints import hints
from llm_expo.weights.pairing import NewRows, Pairing, pair

# As many as still can be read in one line of an error.
_NAMED = 12


@dataclass(frozen=True, slots=True)
class Direction:
    """From `initial` (theta0, the SFT model) to `aligned` (theta1, the same model after preference training)."""

    initial: Checkpoint
    aligned: Checkpoint

    @classmethod
    def open(
        cls,
        initial: str | os.PathLike[str],
        aligned: str | os.PathLike[str],
        *,
        allow_bin: bool = False,
        as_given: bool = False,
    ) -> "Direction":
        """Open theta0 and theta1: folders, or hub ids with or without @revision; see Checkpoint.open.

        as_given: do not ask the two models' own records (cards.py) which of them was made from the other.

        Raises CheckpointError for what cannot be read, MismatchError where theta0 says that it was made from theta1;
        does not compare tensors.
        """
        direction = cls(Checkpoint.open(initial, allow_bin=allow_bin), Checkpoint.open(aligned, allow_bin=allow_bin))
        evidence = None if as_given else swapped(direction.initial.located, direction.aligned.located)
        if evidence is not None:
            raise MismatchError(f"{evidence}; exchange them, or give --as-given if that record is wrong")
        return direction

    def mismatches(self) -> list[str]:
        """What keeps the two from being extrapolated, a line for each tensor; empty when nothing does.

        Two float types that differ are no mismatch: the arithmetic is float32's, and theta1's type is the result's.
        """
        return list(pair(self.initial, self.aligned).problems)

    def paired(self, new_rows: NewRows = "refuse") -> Pairing:
        """A partner for every tensor of theta1.

        Raises MismatchError, which names every mismatch up to a readable number and the way out, if there is one.
        """
        if self.initial.path.samefile(self.aligned.path):
            raise MismatchError(
                f"theta0 {shown(self.initial.path)} and theta1 {shown(self.aligned.path)} are the same folder: there "
                "is no direction; theta0 is the checkpoint before preference training, theta1 the one after it"
            )
        found = pair(self.initial, self.aligned, new_rows)
        if found.problems:
            more = [f"and {len(found.problems) - _NAMED} more"] if len(found.problems) > _NAMED else []
            raise MismatchError(
                f"theta0 {shown(self.initial.path)} and theta1 {shown(self.aligned.path)} do not match in "
                f"{len(found.problems)} of {len(self.aligned.tensors)} tensors: "
                f"{'; '.join([*found.problems[:_NAMED], *more])}. {self._way_out(found, new_rows)}"
            )
        return found

    def warnings(self) -> list[str]:
        """What hints at the wrong pair without forbidding it; see hints.py."""
        return hints(self.initial, self.aligned)

    def _way_out(self, found: Pairing, new_rows: NewRows) -> str:
        ours = self.aligned.tensors
        changed = [
            (partner.shape[0], ours[name].shape[0])
            for name, partner in found.partners.items()
            if len(partner.shape) == len(ours[name].shape) and partner.shape[1:] == ours[name].shape[1:]
            if partner.shape != ours[name].shape
        ]
        if any(before < after for before, after in changed) and new_rows == "refuse":
            return "Where theta1's vocabulary grew, --new-rows copy keeps its new rows and extrapolates the others"
        if changed:
            return "Where only the number of rows differs, give both models the same vocabulary"
        if any("expert" in problem.partition(": ")[0] for problem in found.problems):
            return "Experts may be fused on one side only: load both with one version of transformers and save them"
        kinds = [side.config.get("model_type") for side in (self.initial, self.aligned)]
        if kinds[0] != kinds[1] and all(kinds):
            return f"theta0 is a {shown(kinds[0])}, theta1 a {shown(kinds[1])}: two architectures have no direction"
        sides = [side for side in ("0", "1") if any(p.endswith(f": only in theta{side}") for p in found.problems)]
        if found.partners and len(sides) == 2:
            return (
                "The same weights may be named, split or fused in two ways: load both with one version of transformers "
                "and save them"
            )
        return "theta0 must be the very checkpoint from which the training of theta1 began"
