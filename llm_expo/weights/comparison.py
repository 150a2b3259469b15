"""How far two checkpoints lie apart, or three, and what differs beside the weights: one streaming pass. Writes nothing.

The norms are those of the paper's Table 1 (arXiv 2404.16792). Every file is read once, in memory that does not grow
with the model. Knows nothing of alpha; what the figures say about the pair is in judgement.py.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, TypeVar

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.cards import swapped
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.reader import CHUNK, Buffer, Reader
from llm_expo.checkpoints.sidefiles import FileDifference, beside, file_differences
from llm_expo.errors import CheckpointError
from llm_expo.weights.direction import Direction
from llm_expo.weights.distance import Distance, cosine_of_turn
from llm_expo.weights.kernel import distance
from llm_expo.weights.kinds import KINDS, Kind, Layer, kind_of, layer_of
from llm_expo.weights.pairing import Pairing, pair

_Pair = tuple[str, str]  # the names of two sides, the earlier one first
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Mover:
    """One tensor's way from theta0 to theta1."""

    name: str
    norm: float  # Frobenius norm of theta1 - theta0
    relative: float | None  # to the norm of theta0's tensor; None where that is zero


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the two checkpoints of a direction are to each other.

    Distances are those of the float tensors that both have in the same shape; whatever else differs is in `mismatches`.
    """

    direction: Direction
    distances: Mapping[str, Distance] = field(repr=False)  # by theta1's tensor names
    partners: Mapping[str, str] = field(repr=False)  # theta1's name -> theta0's, where they are not the same
    mismatches: tuple[str, ...]  # as in Direction.mismatches
    notes: tuple[str, ...]  # what was matched in another way than by its name, or left out
    files: tuple[FileDifference, ...]  # config, tokenizer, chat template ...
    swapped: str | None  # by which record theta0 was made from theta1, if one says so

    @property
    def total(self) -> Distance:
        return sum(self.distances.values(), Distance())

    def by_kind(self) -> dict[Kind, Distance]:
        """Of the kinds that occur, in the order of KINDS."""
        found = _grouped(self.distances, kind_of)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def by_layer(self) -> dict[Layer, Distance]:
        """Of the tensors that belong to a layer, stack by stack, in order."""
        found = _grouped(self.distances, layer_of)
        return {layer: found[layer] for layer in sorted(layer for layer in found if layer is not None)}

    def by_kind_and_layer(self) -> dict[tuple[Kind, Layer | None], Distance]:
        return _grouped(self.distances, lambda name: (kind_of(name), layer_of(name)))

    def movers(self, count: int = 5) -> tuple[Mover, ...]:
        """The tensors that moved farthest, relative to theta0's."""
        moved = [Mover(name, each.norm, each.norm_relative) for name, each in self.distances.items() if each.squared]
        return tuple(sorted(moved, key=_reach, reverse=True)[:count])


@dataclass(frozen=True, slots=True)
class Lineage:
    """Pre-trained, SFT and aligned model: the three rows of the paper's Table 1, and the angle between the two steps.

    `turn` is the cosine between SFT - pre-trained and aligned - SFT, over the tensors that all three have: 1 where
    alignment goes on in SFT's direction, 0 where it turns off at a right angle, -1 where it goes back. The last row
    follows from it and the first two.
    """

    pretrained_to_sft: Comparison
    sft_to_aligned: Comparison
    pretrained_to_aligned: Comparison

    def rows(self) -> dict[str, Comparison]:
        return {
            "PRETRAINED → SFT": self.pretrained_to_sft,
            "SFT → ALIGNED": self.sft_to_aligned,
            "PRETRAINED → ALIGNED": self.pretrained_to_aligned,
        }

    @property
    def turn(self) -> float | None:
        return next(iter(self._turns(lambda _: "all").values()), None)

    def turn_by_kind(self) -> dict[Kind, float | None]:
        found = self._turns(kind_of)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def turn_by_layer(self) -> dict[Layer, float | None]:
        found = self._turns(layer_of)
        return {layer: found[layer] for layer in sorted(layer for layer in found if layer is not None)}

    def _turns(self, key: Callable[[str], _Key]) -> dict[_Key, float | None]:
        rows = [row.distances for row in self.rows().values()]
        in_sft = {name: self.sft_to_aligned.partners.get(name, name) for name in rows[1] if name in rows[2]}
        shared = {name: there for name, there in in_sft.items() if there in rows[0]}
        first = _grouped({name: rows[0][there] for name, there in shared.items()}, key)
        second, whole = (_grouped({name: row[name] for name in shared}, key) for row in rows[1:])
        return {each: cosine_of_turn(first[each], second[each], whole[each]) for each in first}


def compare(direction: Direction) -> Comparison:
    """Read both checkpoints once and say how far they lie apart. Mismatches are reported, not raised.

    Raises CheckpointError for an input that cannot be read, changes meanwhile, or holds NaN or infinity.
    """
    sides = {"theta0": direction.initial, "theta1": direction.aligned}
    return _measure(sides)["theta0", "theta1"]


def compare_three(pretrained: Checkpoint, sft: Checkpoint, aligned: Checkpoint) -> Lineage:
    """As `compare`, between each two of three checkpoints, in one pass."""
    found = _measure({"PRETRAINED": pretrained, "SFT": sft, "ALIGNED": aligned})
    return Lineage(found["PRETRAINED", "SFT"], found["SFT", "ALIGNED"], found["PRETRAINED", "ALIGNED"])


def _measure(sides: Mapping[str, Checkpoint]) -> dict[_Pair, Comparison]:
    """Each two sides, compared in one pass."""
    pairings = {(a, b): pair(sides[a], sides[b]) for a, b in combinations(sides, 2)}
    found: dict[_Pair, dict[str, Distance]] = {each: {} for each in pairings}
    buffers = {side: Buffer() for side in sides}
    with Reader(shard for side in sides.values() for shard in side.shards) as reader:
        for sources, pairs in _groups(sides, pairings):
            moved = dict.fromkeys(pairs, Distance())
            elements = next(iter(sources.values())).elements
            for at in range(0, elements, CHUNK):
                count = min(CHUNK, elements - at)
                chunks = {side: reader.elements(each, at, count, buffers[side]) for side, each in sources.items()}
                for a, b in pairs:
                    part, bad = distance(*chunks[a], *chunks[b])
                    if bad is not None:
                        side = a if distance(*chunks[a], *chunks[a])[1] == bad else b
                        raise CheckpointError(
                            f"{shown(sources[side].file)} ({side}): {shown(sources[side].name)} holds NaN or infinity "
                            f"at index {sources[side].position(at + bad)}, so it has no distance; look whether the "
                            f"model was saved or copied whole (`apply --allow-not-finite` leaves such values out)"
                        )
                    moved[a, b] += part
            for (a, b), whole in moved.items():
                found[a, b][sources[b].name] = whole
        reader.check_unchanged()
    return {
        (a, b): Comparison(
            Direction(sides[a], sides[b]),
            found[a, b],
            {name: partner.name for name, partner in pairing.partners.items() if partner.name != name},
            tuple(map(str, pairing.problems)),
            pairing.notes,
            file_differences(beside(sides[a].folders), beside(sides[b].folders)),
            swapped(*((sides[side].adapter or sides[side]).located for side in (a, b))),
        )
        for (a, b), pairing in pairings.items()
    }


def _groups(
    sides: Mapping[str, Checkpoint], pairings: Mapping[_Pair, Pairing]
) -> Iterator[tuple[dict[str, Source], list[_Pair]]]:
    """Which tensors to read together, by side, and which two of them to compare; no two come up twice."""
    done: set[tuple[_Pair, str]] = set()
    for last in reversed(list(sides)):
        for name, tensor in sides[last].tensors.items():
            partners = {a: pairing.partners.get(name) for (a, b), pairing in pairings.items() if b == last}
            alike = {
                side: source
                for side, source in {**partners, last: tensor}.items()
                if source is not None and source.shape == tensor.shape and source.is_float
            }
            pairs = [
                (a, b)
                for a, b in combinations(alike, 2)
                if pairings[a, b].partners.get(alike[b].name) == alike[a] and ((a, b), alike[b].name) not in done
            ]
            done |= {(each, alike[each[1]].name) for each in pairs}
            if pairs:
                yield {side: source for side, source in alike.items() if any(side in each for each in pairs)}, pairs


def _grouped(distances: Mapping[str, Distance], key: Callable[[str], _Key]) -> dict[_Key, Distance]:
    found: dict[_Key, Distance] = defaultdict(Distance)
    for name, each in distances.items():
        found[key(name)] += each
    return dict(found)


def _reach(mover: Mover) -> float:
    # From zero, any way is infinitely far.
    return math.inf if mover.relative is None else mover.relative


def as_json(compared: Comparison | Lineage) -> dict[str, Any]:
    """Everything that was compared, in JSON's types."""
    if isinstance(compared, Lineage):
        return {
            "pretrained_to_sft": as_json(compared.pretrained_to_sft),
            "sft_to_aligned": as_json(compared.sft_to_aligned),
            "pretrained_to_aligned": as_json(compared.pretrained_to_aligned),
            "turn": compared.turn,
            "turn_by_kind": compared.turn_by_kind(),
            "turn_by_layer": [{**layer._asdict(), "turn": turn} for layer, turn in compared.turn_by_layer().items()],
        }
    return {
        "theta0": str(compared.direction.initial.path),
        "theta1": str(compared.direction.aligned.path),
        "tensors": len(compared.distances),
        **_figures(compared.total),
        "kinds": {kind: _figures(each) for kind, each in compared.by_kind().items()},
        "layers": [{**layer._asdict(), **_figures(each)} for layer, each in compared.by_layer().items()],
        "movers": [asdict(mover) for mover in compared.movers()],
        "mismatches": list(compared.mismatches),
        "notes": list(compared.notes),
        "files": [asdict(each) for each in compared.files],
        "swapped": compared.swapped,
    }


def _figures(found: Distance) -> dict[str, float | None]:
    names = ("elements", "norm", "norm_initial", "norm_per_root_element", "norm_relative")
    shares = ("share_equal", "share_one_ulp", "share_beyond", "cosine")
    return {name: getattr(found, name) for name in (*names, *shares)}
