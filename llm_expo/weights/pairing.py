"""Which tensor of theta0 belongs to which of theta1. Reads headers; of tensors only those that may be tied.

There is no list of architectures: names decide, then a prefix that only one side has, then equal bytes and what the
configs say of tied embeddings. What is left over is copied from theta1 and said, or refused where it may be the other
side's weights in another form. Knows nothing of alpha.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.header import Tensor
from llm_expo.checkpoints.reader import same_bytes
from llm_expo.errors import listed

NewRows = Literal["refuse", "copy"]
_Alone = Literal["only in theta0", "only in theta1"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps two checkpoints from being extrapolated, in one tensor."""

    name: str  # the tensor's, on theta1's side if both have it
    kind: _Alone | Literal["tied on one side", "unlike"]
    what: str

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.what}"


@dataclass(frozen=True, slots=True)
class Pairing:
    """A partner for every tensor of theta1, or why there is none."""

    partners: Mapping[str, Source]  # by theta1's name; those without a partner are copied
    copied: Mapping[str, str]  # by theta1's name: why it has no partner
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]  # what was matched in another way than by its name, or left out


@dataclass(frozen=True, slots=True)
class _Unmatched:
    """What became of the tensors of one side whose names the other side lacks."""

    partners: dict[str, Source] = field(default_factory=dict)  # theta0's tensor, by theta1's name
    alone: dict[str, Source] = field(default_factory=dict)  # copied or left out, unless they look like the other's
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pair(initial: Checkpoint, aligned: Checkpoint, new_rows: NewRows = "refuse", kept: Collection[str] = ()) -> Pairing:
    """Find the tensor of theta0 from which each one of theta1 was trained.

    new_rows: "copy" lets theta1's vocabulary be larger: in tensors that differ in nothing but as many rows as an
              embedding, the shared rows are extrapolated, the new ones are theta1's.
    kept:     tensors of theta1 that are to stay as they are: whether theta0 has their like does not matter.
    """
    ours = aligned.tensors
    matched, notes = _by_name(initial.tensors, ours)
    of_theta1 = _unmatched_of_theta1(initial, aligned, matched, kept)
    of_theta0 = _unmatched_of_theta0(initial, aligned, matched)
    partners = matched | of_theta1.partners
    unlike = _unlike(partners, ours, new_rows)
    problems = [
        *of_theta1.problems,
        *of_theta0.problems,
        *_stored_ties(initial, aligned, matched),
        *_in_another_form(initial, aligned, matched, of_theta1.alone, of_theta0.alone),
        *(problem for name, problem in unlike.items() if name not in kept),
    ]
    notes += [*of_theta1.notes, *of_theta0.notes]
    if of_theta1.alone:
        notes.append(f"only in theta1, which keeps them as they are: {_some(of_theta1.alone)}")
    if of_theta0.alone:
        notes.append(f"only in theta0, left out: {_some(of_theta0.alone)}")
    for name, partner in partners.items():
        if name in unlike and name in kept:
            notes.append(f"{unlike[name]}: theta1's is kept, as was asked")
        elif name not in unlike and partner.shape != ours[name].shape:
            new = ours[name].shape[0] - partner.shape[0]
            notes.append(f"{shown(name)}: theta1's {new} new rows are kept as they are")
    partners = {name: it for name, it in partners.items() if not (name in unlike and name in kept)}
    copied = {name: "left out: theta1's" if name in kept else "only in theta1" for name in ours if name not in partners}
    return Pairing(partners, copied, tuple(problems), tuple(notes))


def _by_name(theirs: Mapping[str, Source], ours: Mapping[str, Source]) -> tuple[dict[str, Source], list[str]]:
    """theta0's tensors by theta1's names, where the two are the same or differ by a prefix; and what to say of that."""
    matched = {name: theirs[name] for name in ours if name in theirs}
    renamed = _renamed([name for name in ours if name not in theirs], [name for name in theirs if name not in ours])
    if renamed is None:
        return matched, []
    prefix, side, names = renamed
    note = f"theta{side}'s names begin with \"{shown(prefix)}\", the other's do not: matched without it"
    return matched | {name: theirs[there] for name, there in names.items()}, [note]


def _unmatched_of_theta1(
    initial: Checkpoint, aligned: Checkpoint, matched: Mapping[str, Source], kept: Collection[str]
) -> _Unmatched:
    ours, found = aligned.tensors, _Unmatched()
    known = {name: ours[name] for name in matched}
    vocabulary, places, series = _vocabulary(known), _places(known), _series(matched)
    for name, tensor in ours.items():
        if name in matched or name in kept:
            continue
        alike = [each for each in vocabulary if known[each].shape == tensor.shape and not _in_a_series(name)]
        if not matched or _kind(name) in series:
            found.problems.append(_alone(name, "only in theta1"))
        elif (copy := _copied(aligned, tensor, known, places, alike)) is not None:
            found.partners[name] = matched[copy]
            found.notes.append(f"{shown(name)}: only in theta1, where it equals {shown(copy)}: moved like it")
        elif not alike:
            found.alone[name] = tensor
        elif _ties(initial) is False:
            what = "only in theta1, and theta0's config says that nothing is tied"
            found.problems.append(Problem(name, "tied on one side", what))
        elif len(alike) > 1:
            what = f"only in theta1, and may be tied to any of {_some(alike)} in theta0"
            found.problems.append(Problem(name, "tied on one side", what))
        else:
            found.partners[name] = matched[alike[0]]
            theirs = shown(matched[alike[0]].name)
            found.notes.append(f"{shown(name)}: theta0 ties it to {theirs}, which is its theta0 here")
    return found


def _unmatched_of_theta0(initial: Checkpoint, aligned: Checkpoint, matched: Mapping[str, Source]) -> _Unmatched:
    found = _Unmatched()
    used = {partner.name for partner in matched.values()}
    vocabulary = _vocabulary({name: aligned.tensors[name] for name in matched})
    places, series = _places(matched), _series(matched)
    for name, tensor in initial.tensors.items():
        if name in used:
            continue
        alike = [each for each in vocabulary if matched[each].shape == tensor.shape and not _in_a_series(name)]
        if not matched or _kind(name) in series:
            found.problems.append(_alone(name, "only in theta0"))
        elif (copy := _copied(initial, tensor, matched, places, alike)) is not None:
            theirs = shown(matched[copy].name)
            found.notes.append(f"{shown(name)}: only in theta0, where it equals {theirs}: left out")
        elif not alike:
            found.alone[name] = tensor
        elif (without := _without_head(aligned)) is not None:
            what = f"only in theta0, and a {shown(without)}, as theta1 is, has none: left out"
            found.notes.append(f"{shown(name)}: {what}")
        elif _ties(aligned) is False:
            what = "only in theta0, and theta1's config says that nothing is tied"
            found.problems.append(Problem(name, "tied on one side", what))
        else:
            found.problems.append(_torn(name, alike[0], matched[alike[0]].name))
    return found


def _alone(name: str, where: _Alone) -> Problem:
    return Problem(name, where, where)


def _series(matched: Mapping[str, Source]) -> set[str]:
    """Kinds that both sides have: a tensor of theirs is one of a series, such as a layer's, and must not be missing."""
    return {_kind(name) for mine, partner in matched.items() for name in (mine, partner.name)}


def _unlike(partners: Mapping[str, Source], ours: Mapping[str, Source], new_rows: NewRows) -> dict[str, Problem]:
    """By theta1's name, the partners of another shape or of another kind of type."""
    grown = {
        (partner.shape[0], ours[name].shape[0])
        for name, partner in partners.items()
        if new_rows == "copy" and is_embedding(name, partner) and partner.shape[1:] == ours[name].shape[1:]
    }
    found = {name: _mismatch(partner, ours[name], grown) for name, partner in partners.items()}
    return {name: Problem(name, "unlike", what) for name, what in found.items() if what is not None}


def _kind(name: str) -> str:
    """The name without its numbers."""
    return re.sub(r"\d+", "N", name)


def _in_a_series(name: str) -> bool:
    return _kind(name) != name


def _places(tensors: Mapping[str, Source]) -> dict[Tensor, str]:
    """The tensors by where they lie. In a pickle two that are tied lie at one place."""
    return {replace(it, name=""): name for name, it in tensors.items() if isinstance(it, Tensor) and it.nbytes}


def _copied(
    checkpoint: Checkpoint, tensor: Source, others: Mapping[str, Source], places: Mapping[Tensor, str], alike: list[str]
) -> str | None:
    """Of which of the others the tensor is a copy: it lies at the same place, or has the same shape and bytes.

    Bytes are compared with embeddings (`alike`) only: elsewhere, as in new biases, equal numbers prove nothing.
    """
    if isinstance(tensor, Tensor) and (found := places.get(replace(tensor, name=""))) is not None:
        return found
    return next((name for name in alike if same_bytes(checkpoint.shards, tensor, others[name])), None)


def _some(names: Iterable[str]) -> str:
    return listed([*map(shown, names)], ", ", most=6)


def _mismatch(initial: Source, aligned: Source, grown: Collection[tuple[int, int]]) -> str | None:
    """`grown`: the numbers of rows, theta0's and theta1's, that may differ."""
    if initial.shape != aligned.shape:
        rows = (*initial.shape[:1], *aligned.shape[:1])
        if not (rows in grown and rows[0] < rows[1] and initial.shape[1:] == aligned.shape[1:] and aligned.is_float):
            return f"shape {list(initial.shape)} in theta0, {list(aligned.shape)} in theta1"
    if initial.dtype != aligned.dtype and not (initial.is_float and aligned.is_float):
        return f"{initial.dtype} in theta0, {aligned.dtype} in theta1"
    return None


def _renamed(ours: Collection[str], theirs: Collection[str]) -> tuple[str, int, dict[str, str]] | None:
    """A prefix that only one side's names have, such as "model.": (prefix, side, theta1's name -> theta0's).

    None if there is none, and where two prefixes lead to the same name (an encoder's and a decoder's).
    """
    claims: dict[tuple[str, int], dict[str, str]] = {}
    for side, longer, shorter in ((1, ours, set(theirs)), (0, theirs, set(ours))):
        for name in longer:
            for dot in re.finditer(r"\.", name):
                if name[dot.end() :] in shorter:
                    claims.setdefault((name[: dot.end()], side), {})[name] = name[dot.end() :]
    if not claims:
        return None
    best = max(claims, key=lambda claim: len(claims[claim]))
    prefix, side = best
    rivals = [found for claim, found in claims.items() if claim != best and claim[1] == side]
    if any(set(claims[best].values()) & set(rival.values()) for rival in rivals):
        return None
    return prefix, side, claims[best] if side == 1 else {short: long for long, short in claims[best].items()}


def _in_another_form(
    initial: Checkpoint,
    aligned: Checkpoint,
    matched: Mapping[str, Source],
    of_theta1: Mapping[str, Source],
    of_theta0: Mapping[str, Source],
) -> list[Problem]:
    """Which of the tensors that only one side has may be weights of the other one, written in another form."""
    foreign = initial.config.get("model_type") != aligned.config.get("model_type")
    shared = [name for mine, it in matched.items() for name in (mine, it.name)] if foreign else []

    def problems(where: _Alone, alone: Mapping[str, Source], other: Mapping[str, Source]) -> list[Problem]:
        found = {*_rivals(alone, other, matched.values()), *_in_layers_of(alone, shared)}
        return [_alone(name, where) for name in alone if name in found]

    # In turn, so that a message which ends early names some of both.
    both = zip_longest(
        problems("only in theta1", of_theta1, of_theta0), problems("only in theta0", of_theta0, of_theta1)
    )
    return [problem for each in both for problem in each if problem is not None]


def _rivals(alone: Mapping[str, Source], other: Mapping[str, Source], matched: Collection[Source]) -> Collection[str]:
    """Which tensors that only one side has may be renamed, split or fused on the other.

    Heads and buffers may be one side's alone. But where each side has matrices that the other lacks, or tensors of one
    shape under different names, or where less is matched than is not, the two are written differently.
    """
    weights = {name: tensor for name, tensor in alone.items() if tensor.is_float}
    rivals = [tensor for tensor in other.values() if tensor.is_float]
    if sum(math.prod(it.shape) for it in weights.values()) > sum(math.prod(it.shape) for it in matched if it.is_float):
        return weights
    shapes = {tensor.shape for tensor in rivals if math.prod(tensor.shape) > 1}
    matrices = any(_is_matrix(tensor) for tensor in rivals)
    return [name for name, it in weights.items() if it.shape in shapes or (matrices and _is_matrix(it))]


def _in_layers_of(alone: Mapping[str, Source], matched: Iterable[str]) -> list[str]:
    """Which float tensors lie in layers that the other side has too, as another architecture's biases and norms do."""

    def layer(name: str) -> str:
        return name[: found.end()] if (found := re.search(r"\.\d+\.", name)) else ""

    layers = {layer(name) for name in matched} - {""}
    return [name for name, tensor in alone.items() if tensor.is_float and layer(name) in layers]


def _is_matrix(tensor: Source) -> bool:
    return len(tensor.shape) > 1 and tensor.shape[0] > 1  # a head for one number and a mask begin with an extent of 1


def is_embedding(name: str, tensor: Source) -> bool:
    """Whether a tensor has a row for each token, or each position: an embedding, or a head."""
    return len(tensor.shape) == 2 and re.search(r"emb|wte|shared|lm_head", name) is not None


def _vocabulary(tensors: Mapping[str, Source]) -> list[str]:
    """The embeddings with the most rows: those of tokens. What else is of their shape may be tied to them.

    The others, of positions and segments, are as small as a classifier may be.
    """
    rows = {name: tensor.shape[0] for name, tensor in tensors.items() if is_embedding(name, tensor)}
    return [name for name, count in rows.items() if count == max(rows.values())]


def _ties(checkpoint: Checkpoint) -> bool | None:
    """What config.json says of tied embeddings, if anything."""
    for part in (checkpoint.config, checkpoint.config.get("text_config")):
        said = part.get("tie_word_embeddings") if isinstance(part, Mapping) else None
        if isinstance(said, bool):
            return said
    return None


def _without_head(checkpoint: Checkpoint) -> str | None:
    """The architecture that config.json names, if it is one without a head for tokens: a reward model, a bare model.

    A model that lost its head would be another matter: its config.json still names an architecture that has one.
    """
    stated = checkpoint.config.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    if not names or any(re.search(r"(LM|LMHead|LMHeadModel|Generation|PreTraining|Seq2Seq)$", name) for name in names):
        return None
    return names[0]


def _stored_ties(initial: Checkpoint, aligned: Checkpoint, matched: Mapping[str, Source]) -> list[Problem]:
    """Heads that theta1's file holds as a copy of the embedding, to which they are tied, and theta0's does not.

    Their extrapolations would differ, which a tied model cannot hold.
    """
    if not _ties(aligned):
        return []
    ours = aligned.tensors
    embeddings = _vocabulary({name: ours[name] for name in matched})
    return [
        _torn(matched[head].name, name, matched[name].name)
        for head in embeddings
        if re.search(r"lm_head|embed_out", head)
        for name in embeddings
        if name != head
        and same_bytes(aligned.shards, ours[head], ours[name])
        and not same_bytes(initial.shards, matched[head], matched[name])
    ]


def _torn(theirs: str, ours: str, partner: str) -> Problem:
    what = f"theta1 ties it to {shown(ours)}, but theta0's is not equal to {shown(partner)}"
    return Problem(theirs, "tied on one side", what)
