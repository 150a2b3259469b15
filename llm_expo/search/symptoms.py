"""What replies show that a reward does not see. Pure: replies in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_expo.generation import Reply

OPENING_WORDS = 4


@dataclass(frozen=True)
class Symptoms:
    """Facts about all replies of one alpha.

    `tokens` is their mean length, `truncated` the share that the token limit ended. `distinct_openings` is the share of
    different first words (`OPENING_WORDS` of them) among the replies: it falls first when a model starts to say the
    same to everybody.
    """

    tokens: float
    truncated: float
    distinct_openings: float


def symptoms(replies: Sequence[Reply]) -> Symptoms:
    """Of at least one reply."""
    openings = {" ".join(reply.text.lower().split()[:OPENING_WORDS]) for reply in replies}
    n = len(replies)
    return Symptoms(
        tokens=sum(len(reply.tokens) for reply in replies) / n,
        truncated=sum(reply.truncated for reply in replies) / n,
        distinct_openings=len(openings) / n,
    )
