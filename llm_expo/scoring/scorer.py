"""The seam between text and reward: what a scorer is asked, and the check on what it answers."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from llm_expo.errors import ScorerError

Conversation = list[dict[str, str]]
"""Messages {"role", "content"}, the last one the assistant's reply that is to be judged."""

LARGEST = 1e30
"""What is larger is no reward, and sums of its squares would overflow."""


Progress = Callable[[int, int], object]
"""Told how much of a call is done, and of how much, in whatever unit."""


def unwatched(done: int, of: int) -> None:
    """Nobody wants to know."""


class Scorer(Protocol):
    """Judges replies by themselves; a higher reward is better, on whatever scale, as long as it is one scale."""

    @property
    def name(self) -> str:
        """What identifies the scorer in a study: resuming with another name is an error."""

    def score(self, conversations: Sequence[Conversation], progress: Progress = unwatched) -> list[float]:
        """One reward for each conversation, in order."""


@runtime_checkable
class Comparer(Protocol):
    """Judges replies against others to the same prompts; told from a Scorer by its method."""

    @property
    def name(self) -> str:
        """What identifies the comparer in a study."""

    def compare(
        self, conversations: Sequence[Conversation], baselines: Sequence[str], progress: Progress = unwatched
    ) -> list[float]:
        """One reward in [0, 1] for each conversation, in order; 0.5 where neither reply is better.

        Args:
            baselines: for each conversation the reply to hold its last message against.
        """


@runtime_checkable
class Resting(Protocol):
    """A scorer, or an engine, that can make room on its device for another."""

    def rest(self) -> None:
        """Give the device's memory back until the next call."""


@runtime_checkable
class Recording(Protocol):
    """A scorer that has something to say of its work so far, such as what it cost."""

    def record(self) -> object:
        """A dataclass, for the report."""


def rewards(
    scorer: Scorer | Comparer,
    conversations: Sequence[Conversation],
    baselines: Sequence[str] | None = None,
    progress: Progress = unwatched,
) -> list[float]:
    """The scorer's rewards, one finite number a conversation, or a ScorerError that says what came instead.

    Args:
        baselines: for each conversation the reply that a Comparer holds against it; a Scorer does without.
    """
    if not isinstance(scorer, Comparer):
        values = scorer.score(conversations, progress)
    elif baselines is None:
        raise ValueError(f"{scorer.name} compares: it needs baselines")
    else:
        values = scorer.compare(conversations, baselines, progress)
    if len(values) != len(conversations):
        raise ScorerError(f"{scorer.name}: returned {len(values)} rewards for {len(conversations)} conversations")
    for value, conversation in zip(values, conversations, strict=True):
        if not abs(value) < LARGEST:
            reply = conversation[-1]["content"]
            shown = reply if len(reply) <= 60 else reply[:60] + "..."
            raise ScorerError(f"{scorer.name}: returned {value} for the reply {shown!r}; a reward is a finite number")
    return values
