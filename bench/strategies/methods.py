"""The strategies, each with its ways to choose, and what one finds in a world."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from world import Watch, World, nearest

from llm_expo.search.budget import Budget
from llm_expo.search.choice import choose
from llm_expo.search.race import BUDGET_PER_PROMPT, Race
from llm_expo.search.rounds import Seen, Spent, Strategy, answered
from llm_expo.search.sweeps import PRESETS, Grid, Paper
from llm_expo.search.verdict import Confirmed, Verdict, decide
from llm_expo.search.walk import CALIBRATION
from llm_expo.testing import play

OCTAVE = 1.9  # lattices are rounded


@dataclass(frozen=True, slots=True)
class Found:
    choice: int
    completions: int
    tokens: float
    fluently: bool


Pick = Callable[[World, Seen], float]


@dataclass(frozen=True, slots=True)
class Method:
    """A strategy, and the ways to choose among what it has seen, by what is added to its name."""

    strategy: Callable[[World], Strategy]
    picks: Mapping[str, Pick]
    paired: bool = True
    guarded: bool = False
    fluently: bool = False
    """It does not go on with an alpha that is no longer fluent."""


def highest(_: World, seen: Seen) -> float:
    means = {alpha: statistics.fmean(mine) for alpha, mine in answered(seen).items()}
    return max(means, key=lambda alpha: (means[alpha], -abs(alpha)))


def fluent(world: World, seen: Seen) -> float:
    counts = {nearest(world.alphas, alpha): len(mine) for alpha, mine in answered(seen).items()}
    places = world.watch.fluent(counts, ()) if world.watch else counts
    return choose(seen, "fluent", [float(world.alphas[place]) for place in places])


def race(budget_per_prompt: float, picks: Mapping[str, Pick], *, fluently: bool = False) -> Method:
    def strategy(world: World) -> Strategy:
        return Race(Budget(budget_per_prompt * world.search.shape[1]), world.choices)

    return Method(strategy, picks, guarded=True, fluently=fluently)


def octaves(world: World) -> Strategy:
    rungs: list[float] = []
    for alpha in world.alphas[world.alphas > 0]:
        if not rungs or alpha >= OCTAVE * rungs[-1]:
            rungs.append(float(alpha))
    return Grid(tuple(rungs))


def best(_: World, seen: Seen) -> float:
    return choose(seen)


def one_se(_: World, seen: Seen) -> float:
    return choose(seen, "one-se")


METHODS: dict[str, Method] = {
    **{
        f"paper {name}": Method(lambda _, intervals=intervals: Paper(intervals), {"": highest})  # type: ignore[misc]
        for name, intervals in PRESETS.items()
    },
    "grid 0.1 to 0.5": Method(lambda _: Grid(), {"": highest}),
    "log grid": Method(octaves, {"": highest}),
    "log grid, unpaired": Method(octaves, {"": highest}, paired=False),
    "race, fluent": race(BUDGET_PER_PROMPT, {"": fluent}, fluently=True),
    "race, best": race(BUDGET_PER_PROMPT, {"": best}),
    "race": race(BUDGET_PER_PROMPT, {", one-se": one_se, ", highest mean": highest}),
    "race, best, budget 1.5": race(1.5, {"": best}),
    "race, best, budget 3": race(3.0, {"": best}),
}
PAPER = "paper, best fitting"


def replay(world: World) -> dict[str, Found]:
    found = {}
    for name, method in METHODS.items():
        seen = played(world, method)
        paid: dict[int, int] = {}
        for alpha, count in seen.spent.completions.items():
            place = nearest(world.alphas, alpha)
            paid[place] = max(paid.get(place, 0), count)
        completions, tokens = sum(paid.values()), sum(world.tokens[at, :count].sum() for at, count in paid.items())
        if method.guarded and world.watch:
            calibration = world.tokens[nearest(world.alphas, -1.0), :CALIBRATION]
            completions, tokens = completions + len(calibration), tokens + calibration.sum()
        for suffix, pick in method.picks.items():
            found[name + suffix] = Found(
                nearest(world.alphas, pick(world, seen)), completions, float(tokens), method.fluently
            )
    return {
        PAPER: found[f"paper {world.preset}"],
        **found,
        "all replies": Found(int(np.argmax(world.known)), world.search.size, float(world.tokens.sum()), fluently=False),
    }


def played(world: World, method: Method) -> Seen:
    rewards, strategy = world.search if method.paired else world.alone, method.strategy(world)
    ids = [str(each) for each in range(rewards.shape[1])]
    if method.guarded and world.watch:
        return watched(world, world.watch, strategy, ids, fluently=method.fluently)
    rows: dict[float, list[float]] = {}

    def reward(alpha: float, prompt: str) -> float:
        if alpha not in rows:
            rows[alpha] = rewards[nearest(world.alphas, alpha)].tolist()
        return rows[alpha][int(prompt)]

    return play(strategy, ids, reward)


def watched(world: World, watch: Watch, strategy: Strategy, ids: Sequence[str], *, fluently: bool) -> Seen:
    """As `llm_expo.search.walk` goes."""
    seen, counts = Seen(tuple(ids)), dict[int, int]()
    collapsed, astray = dict[int, str](), set[int]()

    def of_fluent() -> Seen:
        others = counts.keys() - watch.fluent(counts, collapsed) - {world.theta1}
        left = {float(world.alphas[place]): "not fluent" for place in others}
        return replace(seen, collapsed={**left, **seen.collapsed})

    while wanted := strategy(seen) or (strategy(of_fluent()) if fluently else None):
        asked = {nearest(world.alphas, alpha): count for alpha, count in wanted.wanted.items()}
        counts |= {place: max(count, counts.get(place, 0)) for place, count in asked.items()}
        collapsed |= {place: word for place in asked if (word := watch.collapse(place, counts)) is not None}
        if fluently:
            astray |= watch.astray(counts, collapsed)
        words = dict.fromkeys(astray, "not fluent") | collapsed
        alphas = {place: float(world.alphas[place]) for place in counts}
        rewards = {
            alpha: dict(zip(ids, world.search[place, : counts[place]].tolist(), strict=False))
            for place, alpha in alphas.items()
        }
        seen = Seen(
            seen.prompts,
            rewards,
            {alphas[place]: word for place, word in words.items()},
            Spent({alpha: counts[place] for place, alpha in alphas.items()}),
        )
    return seen


def verdict(world: World, choice: int) -> Verdict:
    if choice not in world.verdicts:
        mine, theta1 = (
            Confirmed(world.confirm[at].tolist(), world.confirm_tokens[at].tolist()) for at in (choice, world.theta1)
        )
        objection = world.watch.objection(choice) if world.watch else None
        decision = decide(float(world.alphas[choice]), mine, theta1, objection=objection)
        world.verdicts[choice] = decision.verdict
    return world.verdicts[choice]
