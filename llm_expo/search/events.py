"""What a search tells whoever watches it."""

from dataclasses import dataclass
from typing import Literal

from llm_expo.search.rounds import Round
from llm_expo.search.study import Part
from llm_expo.stats import Interval

Activity = Literal["generate", "read", "score"]


@dataclass(frozen=True, slots=True)
class Split:
    """The study's prompts, before anything runs: how many to search on, and how many are set aside to confirm on."""

    search: int
    confirm: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A round is about to run; `number` counts from 1, `replies` are those that are new to this walk.

    `later` replies at most come after it, those of the confirmation included; None where that cannot be said.
    """

    number: int
    round: Round
    replies: int
    later: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The search has ended with a choice, which is about to be confirmed on so many prompts."""

    alpha: float
    prompts: int


@dataclass(frozen=True, slots=True)
class Done:
    """`done` of `total` replies of `part` at `alpha` that were missing are through `activity`, after `seconds`.

    The first one, with `done` 0, comes as the activity begins.
    `tokens` are those of these replies, while they are generated. alpha is None where those of several are at it.
    """

    activity: Activity
    part: Part
    alpha: float | None
    done: int
    total: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tried:
    """theta(alpha) has answered so many prompts of `part`, and what came of it.

    `gain` is the paired difference of reward to theta1 on those that theta1 has answered, too; None for theta1 itself,
    and with fewer than two of them. `collapsed` is the guard's word.
    """

    part: Part
    alpha: float
    prompts: int
    reward: float
    gain: Interval | None
    collapsed: str | None


Event = Split | Begun | Done | Tried | Chosen
