"""What one replay may see, and the truth; which of the paper's presets fits it. Knows neither tables nor noise."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_expo.search.rounds import answered
from llm_expo.search.sweeps import PRESETS, Paper
from llm_expo.search.verdict import Verdict
from llm_expo.testing import play

Floats = NDArray[np.float64]

CONFIRM_SHARE = 1 / 3


class Watch(Protocol):
    """The guard over one replay, by places of alphas."""

    def collapse(self, place: int, counts: Mapping[int, int]) -> str | None:
        """Its symptom in its first replies of the search, beside theta1's."""

    def objection(self, place: int) -> str | None:
        """To a choice, by its replies to the confirm prompts."""

    def fluent(self, counts: Mapping[int, int], collapsed: Container[int]) -> frozenset[int]:
        """Those alphas that are, by so many replies of each."""

    def astray(self, counts: Mapping[int, int], collapsed: Container[int]) -> frozenset[int]:
        """Those that are no longer to be called fluent, by the same replies."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What one replay may see, and the truth. `alphas` [A] ascend; rewards and tokens are [A, prompts]."""

    alphas: Floats
    choices: tuple[float, ...]
    """What `race` may ask for."""
    truth: Floats
    known: Floats
    """What `search` is drawn around: all that a search could find out."""
    preset: str
    """The paper's preset that fits best."""
    search: Floats
    tokens: Floats
    """Of the replies in `search`."""
    alone: Floats
    """As `search`, but every alpha meets prompts and noise of its own."""
    confirm: Floats
    confirm_tokens: Floats
    fluent: tuple[int, ...]
    """Places of the alphas that are fluent in the whole table."""
    watch: Watch | None = None
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """Of the choices asked about so far."""

    @property
    def theta1(self) -> int:
        return nearest(self.alphas, 0.0)


def nearest(alphas: Floats, alpha: float) -> int:
    far = np.abs(alphas - alpha)
    if alpha > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.where(alphas > 0, np.abs(np.log(alphas / alpha)), math.inf)
    return int(np.argmin(far))


def fitting(alphas: Floats, truth: Floats) -> str:
    """The preset of the paper that would end best if it saw the truth; of equal ones the cheapest."""
    ends = {}
    for name, intervals in PRESETS.items():
        seen = play(Paper(intervals), ("",), lambda alpha, _: float(truth[nearest(alphas, alpha)]))
        end = max(float(mine[0]) for mine in answered(seen).values())
        ends[name] = (round(end, 6), -len({nearest(alphas, alpha) for alpha in seen.rewards}))
    return max(ends, key=lambda name: ends[name])
