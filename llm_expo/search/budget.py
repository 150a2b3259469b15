"""What a search may cost, and what the next replies will: from what the last ones did."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from llm_expo.errors import StudyError
from llm_expo.search.rounds import Spent

Unit = Literal["completions", "tokens", "minutes"]


@dataclass(frozen=True, slots=True)
class Budget:
    """So much of a unit for all search prompts together.

    What a search does next depends on its budget's unit alone: in minutes it takes moves and turns into account and
    is not the same twice; in completions or tokens it is.
    """

    amount: float
    unit: Unit = "completions"

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", float(self.amount))  # a study compares its strategy by the repr
        if not 0 < self.amount < math.inf:
            raise StudyError(f"the budget is {self}; it has to be above 0")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """'500', '500 completions', '2e5 tokens' or '45 minutes'.

        Raises:
            StudyError: for anything else.
        """
        amount, _, unit = text.strip().partition(" ")
        units = {each: each for each in get_args(Unit)}
        try:
            return cls(float(amount), units[unit.strip() or "completions"])
        except (ValueError, KeyError):
            raise StudyError(
                f"the budget is {text!r}; it has to be a number and one of {', '.join(units)}, as in '45 minutes'"
            ) from None


def left(budget: Budget, spent: Spent) -> float:
    """What remains, in the budget's unit; below 0 if a round took more than was foreseen."""
    used = {
        "completions": sum(spent.completions.values()),
        "tokens": sum(spent.tokens.values()),
        "minutes": sum(spent.seconds.values()) / 60,
    }
    return budget.amount - used[budget.unit]


def price(unit: Unit, spent: Spent, alpha: float) -> float:
    """Of one more reply of theta(alpha), by its own replies so far, or those of the alpha next to it.

    0 for tokens and minutes before anything has been measured.
    """
    if unit == "completions":
        return 1.0
    measured = [each for each, count in spent.completions.items() if count]
    if not measured:
        return 0.0
    nearest = min(measured, key=lambda each: (abs(each - alpha), each))
    tokens = spent.tokens.get(nearest, 0) / spent.completions[nearest]
    if unit == "tokens":
        return tokens
    generating = spent.seconds.get("generate", 0.0) / max(sum(spent.tokens.values()), 1)
    scoring = spent.seconds.get("score", 0.0) / sum(spent.completions.values())
    return (tokens * generating + scoring) / 60


def overhead(unit: Unit, spent: Spent, visits: int) -> float:
    """Of each of the visits of a round, whatever is asked there: a move, and its part of the turn; 0 but in minutes."""
    if unit != "minutes":
        return 0.0
    move = spent.seconds.get("move", 0.0) / max(spent.moves, 1)
    turn = spent.seconds.get("turn", 0.0) / max(spent.turns, 1)
    return (move + turn / visits) / 60


def cost(unit: Unit, spent: Spent, more: Mapping[float, int]) -> float:
    """Of a round in which each alpha answers so many more prompts."""
    visits = [alpha for alpha, count in more.items() if count]
    replies = sum(more[alpha] * price(unit, spent, alpha) for alpha in visits)
    return replies + len(visits) * overhead(unit, spent, len(visits)) if visits else 0.0
