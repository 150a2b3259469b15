"""A search goes in rounds: what has been seen, what is wanted next, and what it cost.

A strategy is a pure function `Seen -> Round | None`. It keeps no state and draws no numbers, so a search that was
killed and walks its rounds again asks for the same. Nothing here knows how replies are made or kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from llm_expo.errors import StudyError

THETA0, THETA1 = -1.0, 0.0
"""The alphas at which theta(alpha) is theta0 and theta1."""

_ABSURD_ALPHA = 1000.0

Activity = Literal["generate", "score", "move", "turn"]
"""`move` sets the weights to another alpha; `turn` is what engine and scorer need to take over from each other."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the search prompts have cost so far; nothing at first."""

    completions: Mapping[float, int] = field(default_factory=dict)
    """alpha -> replies."""
    tokens: Mapping[float, int] = field(default_factory=dict)
    """alpha -> tokens of these replies."""
    seconds: Mapping[Activity, float] = field(default_factory=dict)
    moves: int = 0
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that has been observed.

    A resumed study begins with nothing seen and walks the rounds again, each answered by its rows: what a killed round
    left behind is then no news before its time.
    """

    prompts: tuple[str, ...]
    """Ids of the search prompts, in the order in which all alphas answer them: a random one, since the first of them
    have to stand for the rest."""
    rewards: Mapping[float, Mapping[str, float]] = field(default_factory=dict)
    """alpha -> prompt id -> reward, the mean over samples; alpha 0 is theta1."""
    collapsed: Mapping[float, str] = field(default_factory=dict)
    """alpha -> the symptom, as the guard said it; never theta1."""
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True)
class Round:
    """What is wanted next: each alpha is to answer the first `count` prompts.

    What it has answered already costs nothing.
    """

    wanted: Mapping[float, int]
    """alpha -> count."""
    why: str
    """One line for a person, shown before the round runs."""
    later: int | None = None
    """So many replies at most may be wanted by the rounds after it; None where that cannot be said."""


def spelled(numbers: Sequence[float]) -> str:
    """For an error's line."""
    return ", ".join(f"{number:g}" for number in numbers) or "missing"


def refuse_alphas(alphas: Sequence[float]) -> None:
    """StudyError for what a strategy cannot choose from."""
    if not alphas or not all(abs(alpha) <= _ABSURD_ALPHA for alpha in alphas) or len({*alphas}) < len(alphas):
        raise StudyError(
            f"alphas are {spelled(alphas)}; each has to lie within {_ABSURD_ALPHA:g} of theta1, and to be there once"
        )


class Strategy(Protocol):
    """The repr of a strategy is what a study records and compares when it is resumed."""

    def __call__(self, seen: Seen) -> Round | None:
        """The next round, or None to stop."""


def answered(seen: Seen) -> dict[float, list[float]]:
    """alpha -> its rewards on the first prompts, in order, up to the first that it has not answered.

    Alphas that collapsed or have no such reward are left out.
    """
    found = {}
    for alpha in sorted(seen.rewards.keys() - seen.collapsed.keys()):
        values: list[float] = []
        for prompt in seen.prompts:
            if prompt not in seen.rewards[alpha]:
                break
            values.append(seen.rewards[alpha][prompt])
        if values:
            found[alpha] = values
    return found
