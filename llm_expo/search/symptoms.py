"""What replies show that a reward does not see. Pure: replies in, numbers out. What is too much, guard.py says.

The guard needs a value for each reply, since it compares alphas prompt by prompt (`readings`); a table needs their
means (`symptoms`). What lies between replies is dealt out to them: an opening that k replies share counts 1/k for each
of these, so that the mean over replies is the number of distinct openings over the number of replies.
"""

import statistics
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llm_expo.generation import Reply

OPENING_WORDS = 4

NGRAM, HEAD = 3, 32
"""Distinct n-grams are those of this many tokens within this many tokens from the start: of whole replies, long ones
would share more than short ones, and longer replies are no collapse."""

REPEATED_NGRAM, LOOK_BACK = 4, 128
"""An n-gram of so many tokens is a repeat if it stood among so many before: without a limit, long replies repeat more
than short ones."""

TAIL_BYTES = 192
"""Compression is that of so many bytes at the end of a reply: of whole replies, long ones would compress better."""


class Symptom(StrEnum):
    """What is looked at, by its name for a person."""

    LOG_PROBABILITY = "log-probability under theta0"
    """Of alpha's replies, nats per token."""
    RECALL = "log-probability of theta1's replies"
    """Under theta(alpha), nats per token; nothing has to be generated for it."""
    OPENINGS = "distinct openings"
    """One over the number of replies with the same first `OPENING_WORDS` words."""
    NGRAMS = "distinct n-grams"
    """The mean, over the n-grams at the start of a reply, of one over the number of replies that they start, too."""
    REPETITION = "repetition"
    """The share of a reply's n-grams that repeat one shortly before."""
    COMPRESSION = "compression"
    """Bytes that deflate needs for a byte of the second half of a reply's end (`TAIL_BYTES`), given the first half."""
    SPECIAL = "special tokens"
    """1 for a reply with special tokens, or their names as text, anywhere but for the token that ends it."""
    ENDED = "ended replies"
    """1 for a reply that the model ended, 0 for one that the token limit did."""


@dataclass(frozen=True)
class Symptoms:
    """Facts about all replies of one alpha.

    `tokens` is their mean length, `truncated` the share that the token limit ended. `distinct_openings` is the share of
    different first words (`OPENING_WORDS` of them) among the replies: it often falls first when a model starts to say
    the same to everybody. The others are means of what `Symptom` describes, None where no reply is long enough for it.
    """

    tokens: float
    truncated: float
    distinct_openings: float
    distinct_ngrams: float | None = None
    repetition: float | None = None
    compression: float | None = None
    special_tokens: float | None = None


def symptoms(replies: Sequence[Reply], special_tokens: Mapping[int, str] | None = None) -> Symptoms:
    """Of at least one reply; `special_tokens` as for `readings`."""
    found = {symptom: _mean(values) for symptom, values in readings(replies, special_tokens).items()}
    return Symptoms(
        tokens=statistics.fmean(len(reply.tokens) for reply in replies),
        truncated=statistics.fmean(reply.truncated for reply in replies),
        distinct_openings=found[Symptom.OPENINGS] or 0.0,
        distinct_ngrams=found[Symptom.NGRAMS],
        repetition=found[Symptom.REPETITION],
        compression=found[Symptom.COMPRESSION],
        special_tokens=found[Symptom.SPECIAL],
    )


def readings(
    replies: Sequence[Reply], special_tokens: Mapping[int, str] | None = None
) -> dict[Symptom, tuple[float | None, ...]]:
    """The symptoms that the replies alone show, a value for each reply; None where it is too short for one.

    The values of openings and n-grams depend on how many replies there are: compare replies to the same prompts only.

    Args:
        replies: of one alpha, one for each prompt.
        special_tokens: id and text of each of the tokenizer's special tokens, those that end a reply included.
    """
    special = special_tokens or {}
    grams = [_ngrams(reply.tokens[:HEAD], NGRAM) for reply in replies]
    return {
        Symptom.OPENINGS: tuple(_rarity([[_opening(reply.text)] for reply in replies])),
        Symptom.NGRAMS: tuple(_rarity(grams)),
        Symptom.REPETITION: tuple(_repetition(reply.tokens) for reply in replies),
        Symptom.COMPRESSION: tuple(_compression(reply.text) for reply in replies),
        Symptom.SPECIAL: tuple(float(_has_special(reply, special)) for reply in replies),
        Symptom.ENDED: tuple(float(not reply.truncated) for reply in replies),
    }


def _opening(text: str) -> str:
    return " ".join(text.lower().split()[:OPENING_WORDS])


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def _rarity(replies: Iterable[Sequence[Hashable]]) -> list[float | None]:
    """For each reply the mean, over its different items, of one over the number of replies that have the item."""
    different = [set(items) for items in replies]
    having = Counter(item for items in different for item in items)
    return [statistics.fmean(1 / having[item] for item in items) if items else None for items in different]


def _repetition(tokens: Sequence[int]) -> float:
    grams = _ngrams(tokens, REPEATED_NGRAM)
    last: dict[tuple[int, ...], int] = {}
    repeats = 0
    for place, gram in enumerate(grams):
        repeats += place - last.get(gram, -LOOK_BACK - 1) <= LOOK_BACK
        last[gram] = place
    return repeats / len(grams) if grams else 0.0


def _compression(text: str) -> float | None:
    tail = text.encode(errors="replace")[-TAIL_BYTES:]
    if len(tail) < TAIL_BYTES:
        return None
    first, second = tail[: TAIL_BYTES // 2], tail[TAIL_BYTES // 2 :]
    deflate = zlib.compressobj(level=9, wbits=-15, zdict=first)
    return len(deflate.compress(second) + deflate.flush()) / len(second)


def _has_special(reply: Reply, special: Mapping[int, str]) -> bool:
    said = reply.tokens if reply.truncated else reply.tokens[:-1]  # the last token of the others is the end
    return any(token in special for token in said) or any(text in reply.text for text in special.values() if text)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
