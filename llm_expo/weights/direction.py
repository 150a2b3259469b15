"""The pair (initial = theta0, aligned = theta1) and whether it may be extrapolated. Knows nothing of alpha."""

import os
from dataclasses import dataclass
from pathlib import Path

from llm_expo.checkpoints import Checkpoint, Shard
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.sidefiles import differences
from llm_expo.errors import MismatchError
from llm_expo.weights.pairing import NewRows, Pairing, pair

# As many as still can be read in one line of an error.
_NAMED = 12
# The files that turn text into tokens. A pair that disagrees in them was hardly trained one from the other.
_TEXT_FILES = (
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens_map",
    "added_tokens",
    "chat_template",
    "spiece",
)


@dataclass(frozen=True, slots=True)
class Direction:
    """From `initial` (theta0, the SFT model) to `aligned` (theta1, the same model after preference training)."""

    initial: Checkpoint
    aligned: Checkpoint

    @classmethod
    def open(
        cls, initial: str | os.PathLike[str], aligned: str | os.PathLike[str], *, allow_bin: bool = False
    ) -> "Direction":
        """Open theta0 and theta1: folders, or hub ids with or without @revision; see Checkpoint.open.

        Raises CheckpointError for what cannot be read; does not compare the two.
        """
        return cls(Checkpoint.open(initial, allow_bin=allow_bin), Checkpoint.open(aligned, allow_bin=allow_bin))

    @property
    def files(self) -> tuple[Shard, ...]:
        """The weight files of both."""
        return (*self.initial.files, *self.aligned.files)

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
                f"{'; '.join([*found.problems[:_NAMED], *more])}. {self._way_out(found)}"
            )
        return found

    def warnings(self) -> list[str]:
        """What hints at the wrong pair without forbidding it: text is turned into tokens in two ways."""
        return [
            f"{difference}: a tokenizer or template that differs hints at the wrong pair; theta1's is used"
            for difference in differences(self.initial.path, self.aligned.path)
            if Path(difference.name).name.startswith(_TEXT_FILES)
        ]

    def _way_out(self, found: Pairing) -> str:
        ours = self.aligned.tensors
        shapes = [(partner.shape, ours[name].shape) for name, partner in found.partners.items()]
        if any(a[:1] < b[:1] and a[1:] == b[1:] for a, b in shapes):
            return "Where theta1's vocabulary grew, --new-rows copy keeps its new rows and extrapolates the others"
        if any(a[:1] > b[:1] and a[1:] == b[1:] for a, b in shapes):
            return "Where only the number of rows differs, give both models the same vocabulary"
        if any("expert" in name for name in {*ours} ^ {*self.initial.tensors}):
            return "Experts may be fused on one side only: load both with one version of transformers and save them"
        return "theta0 must be the very checkpoint from which the training of theta1 began"
