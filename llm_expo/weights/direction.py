"""The pair (initial = theta0, aligned = theta1) and whether it may be extrapolated. Knows nothing of alpha."""

import os
from dataclasses import dataclass
from pathlib import Path

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapted import adapted
from llm_expo.checkpoints.adapter import Adapter, holds_adapter
from llm_expo.checkpoints.cards import swapped
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.hub import resolve
from llm_expo.checkpoints.sidefiles import differences
from llm_expo.errors import CheckpointError, MismatchError
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


Side = Checkpoint | Adapter


@dataclass(frozen=True, slots=True)
class Sides:
    """theta0 and theta1 as they lie on disk: whole models, or adapters."""

    initial: Side
    aligned: Side
    base: Checkpoint | None  # under the adapters, where it was named

    @classmethod
    def open(
        cls,
        initial: str | os.PathLike[str],
        aligned: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        allow_bin: bool = False,
        as_given: bool = False,
    ) -> "Sides":
        """Open theta0 and theta1: folders or hub ids, with or without @revision, of whole models or LoRA adapters.

        base:      of adapters; by default theta0 if that is a whole model, else what the adapter itself names.
        allow_bin: see Checkpoint.open.
        as_given:  do not ask the two models' own records (cards.py) which of them was made from the other.

        Raises CheckpointError for what cannot be read, MismatchError where theta0 says that it was made from theta1;
        does not compare tensors.
        """
        sides = cls(
            _open_side(initial, allow_bin),
            _open_side(aligned, allow_bin),
            None if base is None else Checkpoint.open(base, allow_bin=allow_bin),
        )
        evidence = None if as_given else swapped(sides.initial.located, sides.aligned.located)
        if evidence is not None:
            raise MismatchError(f"{evidence}; exchange them, or give --as-given if that record is wrong")
        return sides

    @property
    def adapter_on_top(self) -> Adapter | None:
        """theta1, if it is an adapter."""
        return self.aligned if isinstance(self.aligned, Adapter) else None

    def merged(self) -> "Direction":
        """Both as whole models. Raises CheckpointError for a base that cannot be read, or does not fit its adapter."""
        return Direction(self._whole(self.initial), self._whole(self.aligned))

    def _whole(self, side: Side) -> Checkpoint:
        if isinstance(side, Checkpoint):
            return side
        if self.base is not None:
            return adapted(self.base, side)
        if isinstance(self.initial, Checkpoint):
            return adapted(self.initial, side)
        if side.base is None:
            raise CheckpointError(f"{shown(side.path)}: does not say on which base it lies; name that with --base")
        try:
            return adapted(Checkpoint.open(side.base), side)
        except MismatchError:
            raise
        except CheckpointError as error:
            raise CheckpointError(
                f"{shown(side.path)} lies on {shown(side.base)}, which cannot be read ({error}); name it with --base"
            ) from None


def _open_side(spec: str | os.PathLike[str], allow_bin: bool) -> Side:
    located = resolve(spec, allow_bin)
    return Adapter.open(located) if holds_adapter(located.folder) else Checkpoint.open(located, allow_bin=allow_bin)


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
        base: str | os.PathLike[str] | None = None,
        allow_bin: bool = False,
        as_given: bool = False,
    ) -> "Direction":
        """Open theta0 and theta1; an adapter is seen merged into its base. Arguments and errors as in `Sides.open`."""
        return Sides.open(initial, aligned, base=base, allow_bin=allow_bin, as_given=as_given).merged()

    def mismatches(self) -> list[str]:
        """What keeps the two from being extrapolated, a line for each tensor; empty when nothing does.

        Two float types that differ are no mismatch: the arithmetic is float32's, and theta1's type is the result's.
        """
        return list(pair(self.initial, self.aligned).problems)

    def paired(self, new_rows: NewRows = "refuse") -> Pairing:
        """A partner for every tensor of theta1.

        Raises MismatchError, which names every mismatch up to a readable number and the way out, if there is one.
        """
        if [*map(os.path.realpath, self.initial.folders)] == [*map(os.path.realpath, self.aligned.folders)]:
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
            # An adapter's folder need not hold what its base has.
            and not (difference.what == "only in theta0" and self.aligned.adapter is not None)
            and not (difference.what == "only in theta1" and self.initial.adapter is not None)
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
