"""The seam between text and reward: what a scorer is asked, and the check on what it answers."""

from collections.abc import Sequence
from typing import Protocol

from llm_expo.errors import ScorerError

Conversation = list[dict[str, str]]
"""Messages {"role", "content"}, the last one the assistant's reply that is to be judged."""


_LARGEST = 1e30
"""What is larger is no reward, and sums of its squares would overflow."""


class Scorer(Protocol):
    """Judges replies; a higher reward is better, on whatever scale, as long as it is one scale."""

    @property
    def name(self) -> str:
        """What identifies the scorer in a study: resuming with another name is an error."""

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """One reward for each conversation, in order."""


def rewards(scorer: Scorer, conversations: Sequence[Conversation]) -> list[float]:
    """The scorer's rewards, one finite number a conversation, or a ScorerError that says what came instead."""
    values = scorer.score(conversations)
    if len(values) != len(conversations):
        raise ScorerError(f"{scorer.name}: returned {len(values)} rewards for {len(conversations)} conversations")
    for value, conversation in zip(values, conversations, strict=True):
        if not abs(value) < _LARGEST:
            reply = conversation[-1]["content"]
            shown = reply if len(reply) <= 60 else reply[:60] + "..."
            raise ScorerError(f"{scorer.name}: returned {value} for the reply {shown!r}; a reward is a finite number")
    return values
