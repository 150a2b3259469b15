"""The strategy `race`: find the best alpha with the fewest replies.

First a ladder: a few prompts at alphas far apart, one step below theta1 and then upward from it, until the guard or a
clear loss ends it. Then a race: the rewards are fitted as a curve over alpha, and each round goes to the alphas, tried
or not, that may still beat the leader, by the gain to be expected for the price. It ends when none of them promises a
gain that matters, or with the budget. An alpha that has clearly lost to the leader, under a test that may be repeated,
is not asked again.

Knows rewards and prices only: that an alpha has collapsed is for the guard to say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llm_expo.errors import StudyError
from llm_expo.search.budget import Budget, cost, left, overhead, price
from llm_expo.search.curve import expected_gains, fit, heights
from llm_expo.search.rounds import THETA1, Round, Seen, Spent, answered, refuse_alphas
from llm_expo.stats import always_valid_difference

ALPHAS = (
    *(-0.5, -0.25),
    *(0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0),
)
"""What `Race` chooses from: in steps by about 1.4, since from one to the next the reward changes little."""
BUDGET_PER_PROMPT = 2.0
"""The budget if none is given: completions for each search prompt. The paper's procedure takes about six."""
PROBE = 16
"""Prompts that an alpha is tried on first; an eighth of them if that is less, but FEWEST if there are so many."""
FEWEST = 4
"""With more, the ladder would take the whole budget where prompts are few."""
GUARDED = 8
"""The guard says nothing on fewer replies: where the ladder then leaves a good part of the default budget, rather so
many than fewer."""
RUNG = 4.0
"""The ladder climbs at least so many times higher with each rung."""
STRIDE = 2
"""Rungs per round. Each round is a turn between engine and scorer; but a rung behind the cliff is wasted."""
CONTENDERS = 3
"""Alphas per round, beside the leader: those that promise most for their price."""
SHARE = 0.5
"""A contender promises at least this share of what the first one does."""
LEAST = 0.01
"""The race ends when nobody is expected to win this share of the leader's gain over theta1, ..."""
LEAST_GAIN = 0.2
"""... which counts as so many standard deviations of a paired difference where it is less."""
SETTLED = 32
"""The race does not end before the leader has answered so many prompts: a gamed reward wins at once, and the guard
cannot tell by a few replies."""
ERROR = 0.05
"""How often the best alpha may be taken for beaten in a search, at most."""

Rewards = Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Race:
    """`alphas` are all that may be asked beside theta1; `budget` is BUDGET_PER_PROMPT if None."""

    budget: Budget | None = None
    alphas: tuple[float, ...] = ALPHAS

    def __post_init__(self) -> None:
        refuse_alphas(self.alphas)
        if not any(alpha > 0 for alpha in self.alphas):
            raise StudyError(f"alphas are {_listed(self.alphas)}; race needs at least one above 0")

    def __call__(self, seen: Seen) -> Round | None:
        n = len(seen.prompts)
        ladder = _ladder(self.alphas)
        guarded = GUARDED * (1 + len(ladder)) <= 0.6 * BUDGET_PER_PROMPT * n
        probe = min(max(min(PROBE, math.ceil(n / 8)), GUARDED if guarded else FEWEST), n)
        least = probe * (1 + len(ladder))
        budget = self.budget or Budget(max(BUDGET_PER_PROMPT * n, least))
        if budget.unit == "completions" and budget.amount < least:
            raise StudyError(
                f"the budget is {budget}; race begins with {probe} prompts at theta1 and at {len(ladder)} other "
                f"alphas, {least} completions; give at least these, or fewer alphas"
            )
        rewards = answered(seen)
        error = ERROR / len(self.alphas)  # each of so many others might beat the best by chance
        wanted: Round | None
        if rungs := _next_rungs(ladder, seen, rewards, error):
            _refuse_little(budget, seen.spent, ladder, rungs, probe)
            wanted = Round(dict.fromkeys(rungs, probe), "the ladder")
        else:
            wanted = _heat(self.alphas, probe, budget, seen, rewards, error)
        return wanted and _within(budget, seen, rewards, wanted, math.ceil(probe / 2))


def _ladder(alphas: Sequence[float]) -> list[float]:
    """The lowest alpha below zero, if there is one, and of those above it the lowest, the next by RUNG, and so on."""
    rungs: list[float] = []
    for alpha in sorted(alpha for alpha in alphas if alpha > 0):
        if not rungs or alpha >= 0.999 * RUNG * rungs[-1]:
            rungs.append(alpha)
    return sorted(alphas)[:1] * (min(alphas) < 0) + rungs


def _next_rungs(ladder: Sequence[float], seen: Seen, rewards: Rewards, error: float) -> list[float]:
    """None behind an alpha that collapsed, or if the highest one is beaten by a lower one."""
    if not rewards:
        return [THETA1, *[rung for rung in ladder if rung < 0], *[rung for rung in ladder if rung > 0][:STRIDE]]
    highest = max(rewards)
    if any(alpha > 0 for alpha in seen.collapsed) or any(
        _is_beaten(rewards[highest], mine, error) for alpha, mine in rewards.items() if alpha < highest
    ):
        return []
    return [rung for rung in ladder if rung > highest][:STRIDE]


def _refuse_little(budget: Budget, spent: Spent, ladder: Sequence[float], rungs: Sequence[float], probe: int) -> None:
    """A budget in tokens or minutes shows to be too small only when the first replies have told their price."""
    remaining = left(budget, spent)
    if cost(budget.unit, spent, dict.fromkeys(rungs, probe)) <= max(remaining, 0):
        return
    used = budget.amount - remaining
    all_rungs = used + cost(budget.unit, spent, dict.fromkeys((rung for rung in ladder if rung >= min(rungs)), probe))
    step = 10 ** (math.floor(math.log10(all_rungs)) - 1)  # two figures are as much as is known
    enough = Budget(math.ceil(2 * all_rungs / step) * step, budget.unit)
    raise StudyError(
        f"the budget of {budget} ends before the race has begun: {_amount(used)} are spent, and the ladder up to "
        f"{ladder[-1]:g} would take about {_amount(all_rungs)}; what was made is kept: go on with --budget '{enough}' "
        f"or more"
    )


def _is_beaten(mine: Sequence[float], other: Sequence[float], error: float) -> bool:
    n = min(len(mine), len(other))
    return n > 1 and always_valid_difference(mine[:n], other[:n], 1 - error).high < 0


def _heat(
    alphas: Sequence[float], probe: int, budget: Budget, seen: Seen, rewards: Rewards, error: float
) -> Round | None:
    """More prompts for the contenders; for the leader, too, once they have answered as many as it has."""
    n = len(seen.prompts)
    curve = fit(rewards, [alpha for alpha in alphas if alpha not in rewards and alpha not in seen.collapsed])
    height = dict(zip(curve.alphas, map(float, heights(curve)), strict=True))
    leader = max(rewards, key=lambda alpha: (height[alpha], -abs(alpha)))
    gain = height[leader] - height[THETA1]
    matters = LEAST * max(gain, LEAST_GAIN * curve.noise)
    counts = {alpha: len(rewards.get(alpha, ())) for alpha in curve.alphas}
    allowed = _not_beaten(curve.alphas, leader, seen, rewards, error)
    promises = {
        alpha: float(promise) / max(price(budget.unit, seen.spent, alpha), 1e-9)
        for alpha, promise in zip(curve.alphas, expected_gains(curve, curve.alphas.index(leader)), strict=True)
        if alpha in allowed and promise > matters and min(counts[alpha], counts[leader]) < n
    }
    settled = min(SETTLED, n)
    if not promises and leader != THETA1 and counts[leader] < settled:
        return Round({THETA1: settled, leader: settled}, f"{leader:g} leads, but on few prompts so far")
    if not promises:
        return None
    first = max(promises.values())
    contenders = sorted(promises, key=lambda alpha: -promises[alpha])[:CONTENDERS]
    contenders = [alpha for alpha in contenders if promises[alpha] >= SHARE * first]
    if behind := [alpha for alpha in contenders if counts[alpha] < counts[leader]]:
        wanted = {alpha: min(max(2 * counts[alpha], probe), counts[leader]) for alpha in behind}
    else:
        wanted = {alpha: max(2 * counts[leader], counts[alpha]) for alpha in (leader, *contenders)}
    for alpha, count in wanted.items():
        wanted[alpha] = min(max(count, counts[alpha] + _worth(budget, seen, alpha, len(wanted))), n)
    return Round(wanted, f"{_listed([leader])} leads; {_listed(contenders)} may be better")


def _not_beaten(alphas: Sequence[float], leader: float, seen: Seen, rewards: Rewards, error: float) -> set[float]:
    """Those beside the leader that did not clearly lose to it.

    An untried one is left out, too, where one between it and the leader lost or collapsed.
    """
    beaten = {alpha for alpha, mine in rewards.items() if _is_beaten(mine, rewards[leader], error)}
    walls = beaten | seen.collapsed.keys()
    return {
        alpha
        for alpha in alphas
        if alpha != leader
        and alpha not in beaten
        and (alpha in rewards or not any(min(leader, alpha) < wall < max(leader, alpha) for wall in walls))
    }


def _worth(budget: Budget, seen: Seen, alpha: float, visits: int) -> int:
    """So many replies as cost what it costs to come to alpha: fewer are not worth the way."""
    each = price(budget.unit, seen.spent, alpha)
    return math.ceil(overhead(budget.unit, seen.spent, visits) / each) if each else 0


def _within(budget: Budget, seen: Seen, rewards: Rewards, wanted: Round, least: int) -> Round | None:
    """The round, or what the budget leaves of it; None if that is not even `least` more prompts at any alpha."""
    more = {alpha: count - len(rewards.get(alpha, ())) for alpha, count in wanted.wanted.items()}
    remaining, needed = max(left(budget, seen.spent), 0.0), cost(budget.unit, seen.spent, more)
    if remaining >= needed:
        each = price(budget.unit, seen.spent, THETA1)
        return replace(wanted, later=math.floor((remaining - needed) / each) if each else None)
    scale = remaining / needed
    more = {alpha: math.floor(scale * count) for alpha, count in more.items()}
    kept = {alpha: len(rewards.get(alpha, ())) + count for alpha, count in more.items() if count >= least}
    return Round(kept, f"{wanted.why}, as far as the budget goes", later=0) if kept else None


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _listed(alphas: Sequence[float]) -> str:
    return ", ".join("theta1" if alpha == THETA1 else f"{alpha:g}" for alpha in alphas)
