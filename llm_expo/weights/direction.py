"""The pair (initial = theta0, aligned = theta1) and whether it may be extrapolated. Knows nothing of alpha."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapted import adapted
from llm_expo.checkpoints.adapter import Adapter, holds_adapter
from llm_expo.checkpoints.cards import swapped
from llm_expo.checkpoints.difference import Difference, holds_difference, shifted
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.hub import Located, resolve
from llm_expo.checkpoints.layout import DIFFERENCE_NAME
from llm_expo.checkpoints.origins import initial_of, open_initial
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import CheckpointError, MismatchError, listed
from llm_expo.weights.equality import all_equal
from llm_expo.weights.hints import hints
from llm_expo.weights.pairing import NewRows, Pairing, is_embedding, pair

logger = logging.getLogger(__name__)

# A weight and a bias.
_TENSORS_OF_A_HEAD = 2

Side = Checkpoint | Adapter


@dataclass(frozen=True, slots=True)
class Sides:
    """theta0 and theta1 as they lie on disk: whole models, adapters, or differences, which are seen whole."""

    initial: Side
    aligned: Side
    base: Checkpoint | None  # under the adapters, where it was named

    @classmethod
    def open(
        cls,
        initial: str | os.PathLike[str] | None,
        aligned: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        allow_bin: bool = False,
        as_given: bool = False,
    ) -> "Sides":
        """Open theta0 and theta1: folders or hub ids, with or without @revision.

        Each may be a whole model, a LoRA adapter, or a difference (checkpoints/difference.py), which lies on theta0 if
        that is the one that it belongs to, else on what it names itself.

        initial:   None takes what theta1's own record names (checkpoints/origins.py).
        base:      of adapters; by default theta0 if that is a whole model, else what the adapter itself names.
        allow_bin: see Checkpoint.open.
        as_given:  do not ask the two models' own records (cards.py) which of them was made from the other.

        Raises CheckpointError for what cannot be read, MismatchError where theta0 says that it was made from theta1;
        does not compare tensors.
        """
        if initial is None:
            theta1 = resolve(aligned, allow_bin)
            theta0: Side = _recorded(theta1, allow_bin)
        else:
            theta0 = _open_side(resolve(initial, allow_bin), allow_bin)
            theta1 = resolve(aligned, allow_bin)
        sides = cls(
            theta0,
            _open_side(theta1, allow_bin, theta0),
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


def _open_side(located: Located, allow_bin: bool, initial: Side | None = None) -> Side:
    """`initial`: what may be the theta0 of a difference."""
    if holds_difference(located.folder):
        given = initial if isinstance(initial, Checkpoint) else None
        return shifted(Difference.open(located), given, allow_bin=allow_bin)
    return Adapter.open(located) if holds_adapter(located.folder) else Checkpoint.open(located, allow_bin=allow_bin)


def _recorded(aligned: Located, allow_bin: bool) -> Checkpoint:
    """The theta0 that theta1's record names."""
    origin = initial_of(aligned)
    if origin is None:
        raise CheckpointError(
            f"{shown(aligned.repo or aligned.folder)}: no record beside it says from which theta0 it was made (a "
            f"training's {PROVENANCE_NAME}, {DIFFERENCE_NAME}, or an adapter's settings); give both, theta0 first"
        )
    initial = open_initial(origin, allow_bin=allow_bin)
    logger.info("theta0 is %s, as %s says", shown(initial.path), shown(origin.said_by))
    return initial


@dataclass(frozen=True, slots=True)
class Direction:
    """From `initial` (theta0, the SFT model) to `aligned` (theta1, the same model after preference training)."""

    initial: Checkpoint
    aligned: Checkpoint

    @classmethod
    def open(
        cls,
        initial: str | os.PathLike[str] | None,
        aligned: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        allow_bin: bool = False,
        as_given: bool = False,
    ) -> "Direction":
        """Open theta0 and theta1; an adapter is seen merged into its base. Arguments and errors as in `Sides.open`."""
        return Sides.open(initial, aligned, base=base, allow_bin=allow_bin, as_given=as_given).merged()

    @classmethod
    def alone(cls, model: str | os.PathLike[str], *, allow_bin: bool = False) -> "Direction":
        """One model that need not move: theta1 at alpha 0, for who wants its replies.

        A whole model is its own theta0 (`is_alone`). Of an adapter or a difference, theta0 is what its record names.
        Raises as `open` does.
        """
        located = resolve(model, allow_bin)
        if holds_adapter(located.folder) or holds_difference(located.folder):
            return cls.open(None, model, allow_bin=allow_bin)
        checkpoint = Checkpoint.open(located, allow_bin=allow_bin)
        return cls(checkpoint, checkpoint)

    @property
    def is_alone(self) -> bool:
        """Whether there is one model, and so no alpha but 0."""
        return self.initial is self.aligned

    def mismatches(self) -> list[str]:
        """What keeps the two from being extrapolated, a line for each tensor; empty when nothing does.

        Two float types that differ are no mismatch: the arithmetic is float32's, and theta1's type is the result's.
        """
        return [*map(str, pair(self.initial, self.aligned).problems)]

    def paired(self, new_rows: NewRows = "refuse", kept: Collection[str] = ()) -> Pairing:
        """A partner for every tensor of theta1; arguments as in `pair`.

        Raises MismatchError, which names every mismatch up to a readable number and the way out, if there is one.
        """
        if [*map(os.path.realpath, self.initial.folders)] == [*map(os.path.realpath, self.aligned.folders)]:
            raise MismatchError(
                f"theta0 {shown(self.initial.path)} and theta1 {shown(self.aligned.path)} are the same folder: there "
                "is no direction; theta0 is the checkpoint before preference training, theta1 the one after it"
            )
        found = pair(self.initial, self.aligned, new_rows, kept)
        if found.problems:
            raise MismatchError(
                f"theta0 {shown(self.initial.path)} and theta1 {shown(self.aligned.path)} do not match in "
                f"{len(found.problems)} of {len(self.aligned.tensors)} tensors: {listed([*map(str, found.problems)])}. "
                f"{self._way_out(found, new_rows)}"
            )
        return found

    def refuse_equal(self) -> None:
        """Raise MismatchError if no float tensor differs, and whatever `paired` raises.

        Of a pair that differs this reads little, as a rule; one that is equal is read whole. `write` finds out by
        itself; who is to spend more on the pair than that should ask first.
        """
        ours, partners = self.aligned.tensors, self.paired().partners
        pairs = ((partner, ours[name]) for name, partner in partners.items() if ours[name].is_float)
        if all_equal((*self.initial.shards, *self.aligned.shards), pairs):
            raise self.nowhere()

    def nowhere(self) -> MismatchError:
        """That theta0 and theta1 do not differ."""
        return MismatchError(
            f"theta0 {shown(self.initial.folders[-1])} and theta1 {shown(self.aligned.folders[-1])} hold the same "
            "numbers in every tensor that would be moved: there is no direction to go"
        )

    def warnings(self) -> list[str]:
        """What hints at the wrong pair without forbidding it; see hints.py."""
        return hints(self.initial, self.aligned)

    def _way_out(self, found: Pairing, new_rows: NewRows) -> str:
        ours = self.aligned.tensors
        rows = [
            (partner.shape[0], ours[name].shape[0])
            for name, partner in found.partners.items()
            if is_embedding(name, ours[name]) and partner.shape[1:] == ours[name].shape[1:]
            if partner.shape != ours[name].shape
        ]
        if any(before < after for before, after in rows) and new_rows == "refuse":
            return "Where theta1's vocabulary grew, --new-rows copy keeps its new rows and extrapolates the others"
        if rows:
            return "Where only the number of rows differs, give both models the same vocabulary"
        if any("expert" in problem.name for problem in found.problems):
            return "Experts may be fused on one side only: load both with one version of transformers and save them"
        kinds = [side.config.get("model_type") for side in (self.initial, self.aligned)]
        if kinds[0] != kinds[1] and all(kinds):
            return f"theta0 is a {shown(kinds[0])}, theta1 a {shown(kinds[1])}: two architectures have no direction"
        if found.partners and {"only in theta0", "only in theta1"} <= {problem.kind for problem in found.problems}:
            return (
                "The same weights may be named, split or fused in two ways: load both with one version of transformers "
                "and save them"
            )
        origin = "theta0 must be the very checkpoint from which the training of theta1 began"
        named = [problem.name for problem in found.problems]
        if len(named) <= _TENSORS_OF_A_HEAD and all(name in ours for name in named):
            exclude = " ".join(f"--exclude '{shown(name)}'" for name in named)
            return f"{origin}; where that is so, and only a new head differs, {exclude} keeps theta1's"
        return origin
