"""The strategies that have every search prompt answered before they try another alpha.

They know means alone, not how sure these are. A collapsed alpha counts as the worst, whatever its rewards.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from llm_expo.errors import StudyError
from llm_expo.search.rounds import Round, Seen, answered, refuse_alphas, spelled

LARGEST_ALPHA = 32.0
"""Where `Paper` stops climbing although rewards still rise."""

Means = Mapping[float, float]
"""alpha -> mean reward over all search prompts, or -inf if it collapsed; alpha 0 is among them."""


@dataclass(frozen=True)
class Grid:
    """Every given alpha once; the default is the paper's grid for released models (section 4.1)."""

    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)

    def __post_init__(self) -> None:
        refuse_alphas(self.alphas)

    def __call__(self, seen: Seen) -> Round | None:
        wanted = _sweep(seen, lambda means: next((alpha for alpha in self.alphas if alpha not in means), None))
        untried = set(self.alphas) - seen.rewards.keys() - seen.collapsed.keys()
        return wanted and replace(wanted, later=len(untried - wanted.wanted.keys()) * len(seen.prompts))


@dataclass(frozen=True)
class Paper:
    """Coarse to fine, our reading of the paper's Appendix B; its text leaves the single steps open.

    Two alphas one wide interval apart come first; while the largest one tried is the best, the search climbs on by a
    wide interval, or a quarter where that is more. Then, interval by interval, the best alpha so far is bracketed by
    its neighbours among those tried and the halves of the bracket are searched, the half towards the better neighbour
    first, each time at the multiple of the interval next to its middle, until both neighbours lie one interval away.

    With one peak at the paper's optimum and a steeper fall behind it than before it, this ends at 8 with (5, 1) and
    at 2.5 with (2, 1, 0.5), after the paper's five evaluations each.
    """

    intervals: tuple[float, ...] = (2.0, 1.0, 0.5)

    def __post_init__(self) -> None:
        falling = all(wide > narrow > 0 for wide, narrow in pairwise((LARGEST_ALPHA, *self.intervals)))
        if not self.intervals or not falling:
            raise StudyError(
                f"intervals are {spelled(self.intervals)}; they have to fall from wide (below {LARGEST_ALPHA:g}) to "
                f"narrow (above 0)"
            )

    def __call__(self, seen: Seen) -> Round | None:
        return _sweep(seen, self._next)

    def _next(self, means: Means) -> float | None:
        widest = self.intervals[0]
        for alpha in (widest, 2 * widest):
            if alpha not in means:
                return alpha
        best = max(means, key=lambda alpha: (means[alpha], -alpha))
        lower = max((alpha for alpha in means if alpha < best), default=None)
        upper = min((alpha for alpha in means if alpha > best), default=None)
        if upper is None and best < LARGEST_ALPHA:
            return _snap(best + max(widest, best / 4), widest)
        for interval in self.intervals:
            halves: list[tuple[float, float]] = []  # (reward of the neighbour, alpha to try)
            if lower is not None and best - lower > 1.001 * interval:
                halves.append((means[lower], _snap((lower + best) / 2, interval)))
            if upper is not None and upper - best > 1.001 * interval:
                halves.append((means[upper], _snap((best + upper) / 2, interval)))
            if halves:
                return max(halves)[1]
        return None


PRESETS = {"5,1": (5.0, 1.0), "2,1,0.5": (2.0, 1.0, 0.5), "0.1": (0.1,)}
"""The intervals that the paper used: for the 10 % model, the 20 % model, and the 40 % and fully trained ones."""


def _sweep(seen: Seen, pick: Callable[[Means], float | None]) -> Round | None:
    """Theta1, and then each alpha that is picked, on all search prompts."""
    n = len(seen.prompts)
    means = {alpha: statistics.fmean(mine) for alpha, mine in answered(seen).items() if len(mine) == n}
    if 0.0 not in means:
        return Round({0.0: n}, f"theta1 on all {n} prompts")
    alpha = pick(means | dict.fromkeys(seen.collapsed, -math.inf))
    return None if alpha is None else Round({alpha: n}, f"alpha {alpha:g} on all {n} prompts")


def _snap(alpha: float, interval: float) -> float:
    """The multiple of the interval next to alpha, the upper one of two."""
    return round(int(alpha / interval + 0.5 + 1e-9) * interval, 10)
