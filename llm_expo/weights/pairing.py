"""Which tensor of theta0 belongs to which of theta1. Reads headers; of tensors only those that may be tied.

There is no list of architectures: names decide, then shapes, then what both configs say of tied embeddings. What is
left is copied from theta1 and said, or refused. Knows nothing of alpha.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.header import Source, Tensor
from llm_expo.checkpoints.reader import Reader

NewRows = Literal["refuse", "copy"]


@dataclass(frozen=True, slots=True)
class Pairing:
    """A partner for every tensor of theta1, or why there is none."""

    partners: Mapping[str, Source]  # by theta1's name; those without a partner are copied
    copied: Mapping[str, str]  # by theta1's name: why it has no partner
    problems: tuple[str, ...]  # what keeps the two from being extrapolated, a line for each tensor
    notes: tuple[str, ...]  # what was matched in another way than by its name, or left out


def pair(initial: Checkpoint, aligned: Checkpoint, new_rows: NewRows = "refuse") -> Pairing:
    """Find the tensor of theta0 from which each one of theta1 was trained.

    new_rows: "copy" lets theta1 have more rows than theta0 where only the number of rows differs (a vocabulary that
              grew): the shared rows are extrapolated, the new ones are theta1's.
    """
    theirs, ours = dict(initial.tensors), aligned.tensors
    partners = {name: theirs[name] for name in ours if name in theirs}
    notes, problems = [], []

    renamed = _renamed([name for name in ours if name not in theirs], [name for name in theirs if name not in ours])
    if renamed is not None:
        prefix, side, names = renamed
        notes.append(f"theta{side}'s names begin with \"{shown(prefix)}\", the other's do not: matched without it")
        partners |= {name: theirs[there] for name, there in names.items()}

    used = {tensor.name for tensor in partners.values()}
    kinds = {_kind(name) for name in partners}
    copied: dict[str, str] = {}
    for name, tensor in ours.items():
        if name in partners:
            continue
        tied = _tied_to(tensor, partners.values(), initial)
        if not partners or _kind(name) in kinds:
            problems.append(f"{shown(name)}: only in theta1")
        elif isinstance(tied, Tensor):
            partners[name] = tied
            notes.append(f"{shown(name)}: theta0 ties it to {shown(tied.name)}, which is its theta0 here")
        elif tied:
            problems.append(f"{shown(name)}: only in theta1, {tied}")
        else:
            copied[name] = "only in theta1"
            notes.append(f"{shown(name)}: only in theta1, which keeps it as it is")
    for name, tensor in theirs.items():
        if name in used:
            continue
        tied = _tied_to(tensor, (ours[mine] for mine in partners), aligned)
        if not partners or _kind(name) in kinds:
            problems.append(f"{shown(name)}: only in theta0")
        elif isinstance(tied, Tensor):
            if _same_bytes(initial, tensor, partners[tied.name]):
                notes.append(
                    f"{shown(name)}: only in theta0, where it equals {shown(partners[tied.name].name)}: left out"
                )
            else:
                problems.append(
                    f"{shown(name)}: theta1 ties it to {shown(tied.name)}, but theta0's is not equal to "
                    f"{shown(partners[tied.name].name)}"
                )
        elif tied:
            problems.append(f"{shown(name)}: only in theta0, {tied}")
        else:
            notes.append(f"{shown(name)}: only in theta0: left out")

    for name, partner in partners.items():
        problem = _mismatch(partner, ours[name], new_rows)
        if problem is not None:
            problems.append(f"{shown(name)}: {problem}")
        elif partner.shape != ours[name].shape:
            new = ours[name].shape[0] - partner.shape[0]
            notes.append(f"{shown(name)}: theta1's {new} new rows are kept as they are")
    return Pairing(partners, copied, tuple(problems), tuple(notes))


def _kind(name: str) -> str:
    """The name without its numbers. A tensor whose kind both sides have is one of a series: it must not be missing."""
    return re.sub(r"\d+", "N", name)


def _mismatch(initial: Source, aligned: Source, new_rows: NewRows) -> str | None:
    if initial.shape != aligned.shape:
        grew = initial.shape[1:] == aligned.shape[1:] and bool(initial.shape) and initial.shape[0] < aligned.shape[0]
        if not (grew and new_rows == "copy"):
            return f"shape {list(initial.shape)} in theta0, {list(aligned.shape)} in theta1"
    if initial.dtype != aligned.dtype and not (initial.is_float and aligned.is_float):
        return f"{initial.dtype} in theta0, {aligned.dtype} in theta1"
    return None


def _renamed(ours: list[str], theirs: list[str]) -> tuple[str, int, dict[str, str]] | None:
    """A prefix that only one side's names have, such as "model.": (prefix, side, theta1's name -> theta0's)."""
    votes: Counter[tuple[str, int]] = Counter()
    for side, longer, shorter in ((1, ours, set(theirs)), (0, theirs, set(ours))):
        for name in longer:
            at = name.find(".")
            while at != -1:
                if name[at + 1 :] in shorter:
                    votes[name[: at + 1], side] += 1
                at = name.find(".", at + 1)
    if not votes:
        return None
    (prefix, side), _ = votes.most_common(1)[0]
    longer, shorter = (ours, set(theirs)) if side == 1 else (theirs, set(ours))
    found = {name: name[len(prefix) :] for name in longer if name.startswith(prefix) and name[len(prefix) :] in shorter}
    return prefix, side, found if side == 1 else {short: long for long, short in found.items()}


def _tied_to(tensor: Source, others: Iterable[Source], lacking: Checkpoint) -> Source | str | None:
    """What `lacking`, which does without `tensor`, ties to it.

    A matrix of the shape of an embedding is tied to it, if the config does not deny that: no other two modules are of
    that shape. Returns the embedding, or why it cannot be told, or None for a tensor that looks like none of this.
    """
    alike = {other.name: other for other in others if other.shape == tensor.shape and _is_embedding(other.name)}
    if len(tensor.shape) != 2 or not alike:
        return None
    if lacking.config.get("tie_word_embeddings") is False:
        return "and the other's config says that nothing is tied"
    if len(alike) > 1:
        return f"and may be tied to any of {', '.join(map(shown, alike))}"
    return next(iter(alike.values()))


def _is_embedding(name: str) -> bool:
    return re.search(r"emb|wte|shared|lm_head", name) is not None


def _same_bytes(checkpoint: Checkpoint, one: Source, other: Source) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.nbytes != other.nbytes:
        return False
    first, second = memoryview(bytearray(1 << 20)), memoryview(bytearray(1 << 20))
    with Reader(checkpoint.files) as reader:
        for at in range(0, one.nbytes, len(first)):
            count = min(len(first), one.nbytes - at)
            reader.read(one, at, first[:count])
            reader.read(other, at, second[:count])
            if first[:count] != second[:count]:
                return False
    return True
