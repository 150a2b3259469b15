"""What the strategies of the search win and cost, replayed on replies that are all there already.

    python bench/strategies.py TABLE.parquet... [--useless NAME,...] [--prompts 128] [--replays 500] [--out FILE.json]
    python bench/strategies.py --worlds usual,... [--prompts 128] [--replays 500] [--out FILE.json]

TABLE is a dense table as experiments/zoo/results.py writes it; theta0's own, theta0.parquet, lies beside it or is
given with --theta0. Sample 0 met the same noise at every alpha, sample 1 fresh noise at each. A replay draws prompts
with replacement, two thirds to search on, from sample 0, and one third to confirm on, from sample 1; the truth is the
mean of the whole table, so that `all replies`, the alpha that is best in all of sample 0, misses a little, too.
Alphas come from the table's lattice: `race` and the log grid are given it, and an alpha that another strategy asks
for is answered by the one nearest to it (in ratio), and paid for once. `paper, best fitting` is that one of the
paper's presets that would end best if it saw the truth.

`race` is watched by the guard, as far as tables go: log-probability, openings and ends of replies, a prompt that was
drawn twice counting once; no n-grams, repetition, compression or recall. It is calibrated on CALIBRATION replies of
theta0, which `race` pays for. The others have no guard and choose by the highest mean, as the paper does.

--worlds draws a world for each replay instead (KINDS). Strategies were tuned on the usual ones, so these are no
evidence for them; the tables are. Nothing but the reward shows a collapse there, and all replies are of one length.

regret: the share of the gain to be had, best alpha over theta1, that the choice misses; for `race, fluent` the best
of those that the guard calls fluent by the whole table. cost: completions of the search for each search prompt;
cost/paper, tokens/paper: all replays together, over those of `paper, best fitting`. worse: the share of replays that
choose what is worse than theta1. ships: the verdict is SHIP. gated: as regret, with theta1 where it is not. Then the
share of each verdict. Tables of useless directions come twice, the second time with every alpha's confirm rewards
lowered until their mean in the table is at most theta1's: a finite table of nothing holds small gains by chance, and
these are no errors.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_expo.generation import Reply
from llm_expo.search import guard
from llm_expo.search.budget import Budget
from llm_expo.search.choice import choose
from llm_expo.search.race import ALPHAS, BUDGET_PER_PROMPT, Race
from llm_expo.search.rounds import Seen, Strategy, answered
from llm_expo.search.sweeps import PRESETS, Grid, Paper
from llm_expo.search.symptoms import Symptom
from llm_expo.search.verdict import Confirmed, Verdict, decide
from llm_expo.search.walk import CALIBRATION
from llm_expo.testing import play

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

CONFIRM_SHARE = 1 / 3
USELESS = "noise,reversed"
OCTAVE = 1.9  # lattices are rounded


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
    watch: "Watch | None" = None
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


@dataclass(frozen=True, slots=True)
class Found:
    choice: int
    completions: int
    tokens: float
    fluently: bool


# -- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Of a pair, with theta0 (alpha -1). Arrays are [2 samples, A, P prompts]; openings are numbered."""

    alphas: Floats
    rewards: Floats
    tokens: Floats
    log_probabilities: Floats
    ended: Floats
    openings: Places
    replies: tuple[tuple[tuple[Reply, ...], ...], ...]
    """What the guard is shown: openings for texts, no tokens."""

    def place(self, alpha: float) -> int:
        return nearest(self.alphas, alpha)

    def observed(self, sample: int, place: int, prompts: Places) -> guard.Observed:
        replies, values = self.replies[sample][place], self.log_probabilities[sample, place]
        return guard.Observed(
            {str(prompt): replies[prompt] for prompt in prompts},
            {str(prompt): float(values[prompt]) for prompt in prompts},
        )


def read_table(path: Path, theta0: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["alpha", "prompt", "sample", "reward", "tokens", "log_probability", "truncated", "opening"]
    both = pa.concat_tables([pq.read_table(each, columns=names) for each in (path, theta0)])
    columns = both.to_pydict()
    alphas, alpha_at = np.unique(columns["alpha"], return_inverse=True)
    prompts, prompt_at = np.unique(columns["prompt"], return_inverse=True)
    openings, opening_at = np.unique(columns["opening"], return_inverse=True)

    def spread(values: Any) -> Floats:
        array = np.full((2, len(alphas), len(prompts)), np.nan)
        array[np.array(columns["sample"]), alpha_at, prompt_at] = values
        return array

    opened, ended = spread(opening_at), 1 - spread(columns["truncated"])
    if np.isnan(opened).any() or not {-1.0, 0.0} <= set(alphas):
        raise SystemExit(f"{path}: not every alpha has both replies to every prompt, or there is no alpha 0 or -1")
    return Table(
        alphas,
        rewards=spread(columns["reward"]),
        tokens=spread(columns["tokens"]),
        log_probabilities=spread(columns["log_probability"]),
        ended=ended,
        openings=opened.astype(np.int64),
        replies=tuple(
            tuple(
                tuple(Reply(str(openings[int(o)]), (), not e) for o, e in zip(*row, strict=True))
                for row in zip(*sample, strict=True)
            )
            for sample in zip(opened, ended, strict=True)
        ),
    )


class Watch:
    """The guard over one replay; what it said is kept, since all strategies meet the same replies."""

    def __init__(self, table: Table, search: Places, confirm: Places) -> None:
        self._table, self._drawn = table, (search, confirm)
        theta0 = self._observed(0, table.place(-1.0), CALIBRATION)
        theta1 = table.place(0.0)
        self._calibrations = tuple(
            guard.calibrate(theta0, self._observed(sample, theta1, len(drawn)))
            for sample, drawn in enumerate(self._drawn)
        )
        self._said: dict[tuple[int, int, int], str | None] = {}

    def collapse(self, place: int, count: int) -> str | None:
        """Its symptom in the first replies of the search."""
        return self._judged(0, place, count, guard.LOOK_ERROR)

    def objection(self, place: int) -> str | None:
        """To a choice, by its replies to the confirm prompts."""
        return self._judged(1, place, len(self._drawn[1]), guard.AT_CONFIRMATION)

    def fluent(self, counts: Mapping[int, int]) -> frozenset[int]:
        observed = {float(place): self._observed(0, place, count) for place, count in counts.items()}
        return frozenset(int(place) for place in guard.fluent(observed, self._calibrations[0]))

    def astray(self, place: int, count: int) -> str | None:
        """Whether it is no longer to be called fluent, by the same replies."""
        if place == self._table.place(0.0) or not self._suspected(0, place, count, guard.FLUENT):
            return None
        return "not fluent" if guard.astray(self._observed(0, place, count), self._calibrations[0]) else None

    def _judged(self, sample: int, place: int, count: int, error: float) -> str | None:
        if place == self._table.place(0.0):
            return None
        if (key := (sample, place, count)) not in self._said:
            said = None
            if self._suspected(sample, place, count, 1.0):
                objection = guard.judge(self._observed(sample, place, count), self._calibrations[sample], error)
                said = objection and str(objection)
            self._said[key] = said
        return self._said[key]

    def _suspected(self, sample: int, place: int, count: int, part: float) -> bool:
        """Whether any symptom's mean is such a part of its distance from theta1's: if not, no bound of it can be."""
        table, prompts = self._table, np.unique(self._drawn[sample][:count])
        distances = self._calibrations[sample].distances

        def near(symptom: Symptom, of: Callable[[int], float]) -> bool:
            return of(table.place(0.0)) - of(place) <= part * distances[symptom]

        return not (
            near(Symptom.LOG_PROBABILITY, lambda at: table.log_probabilities[sample, at, prompts].mean())
            and near(Symptom.ENDED, lambda at: table.ended[sample, at, prompts].mean())
            and near(Symptom.OPENINGS, lambda at: len(np.unique(table.openings[sample, at, prompts])) / len(prompts))
        )

    def _observed(self, sample: int, place: int, count: int) -> guard.Observed:
        return self._table.observed(sample, place, np.unique(self._drawn[sample][:count]))


def fluent_places(table: Table) -> tuple[int, ...]:
    """Of alphas that are fluent over all prompts, theta1 among them."""
    every = np.arange(table.rewards.shape[2])
    observed = {float(alpha): table.observed(0, place, every) for place, alpha in enumerate(table.alphas)}
    fluent = guard.fluent(observed, guard.calibrate(observed[-1.0], observed[0.0]))
    return tuple(place for place, alpha in enumerate(table.alphas) if float(alpha) in fluent)


def table_worlds(table: Table, prompts: int, replays: int, *, centred: bool = False) -> Iterator[World]:
    alphas, (shared, fresh) = table.alphas, table.rewards
    truth = table.rewards.mean(axis=(0, 2))
    means = fresh.mean(axis=1)
    excess = np.maximum(means - means[alphas == 0], 0.0)[:, None] if centred else 0.0
    to_confirm = round(CONFIRM_SHARE * prompts)
    preset, fluent = fitting(alphas, truth), fluent_places(table)
    random = np.random.default_rng(0)
    for _ in range(replays):
        drawn = random.integers(shared.shape[1], size=(len(alphas) + 1, prompts))
        confirm, search = drawn[0, :to_confirm], drawn[0, to_confirm:]
        yield World(
            alphas=alphas,
            choices=tuple(float(alpha) for alpha in alphas if alpha not in (-1, 0)),
            truth=truth,
            known=shared.mean(axis=1),
            preset=preset,
            search=shared[:, search],
            tokens=table.tokens[0][:, search],
            alone=np.take_along_axis(fresh, drawn[1:, to_confirm:], axis=1),
            confirm=fresh[:, confirm] - excess,
            confirm_tokens=table.tokens[1][:, confirm],
            fluent=fluent,
            watch=Watch(table, search, confirm),
        )


# -- drawn worlds ----------------------------------------------------------------------------------------------------

LATTICE = np.unique([-1.0, -0.75, -0.5, -0.25, 0.0, *ALPHAS, *(0.05 * 2 ** (np.arange(57) / 6))])

Generator = np.random.Generator


def usual(random: Generator) -> tuple[float, Floats]:
    """An optimum log-uniform in 0.1 to 10, a gain of 0.3 to 2 standard deviations of the reward, a cliff at 1.5 to 4
    times the optimum; in one world of five nothing helps.
    """
    optimum = math.exp(random.uniform(math.log(0.1), math.log(10)))
    gain = math.exp(random.uniform(math.log(0.3), math.log(2)))
    cliff = optimum * math.exp(random.uniform(math.log(1.5), math.log(4)))
    depth = random.uniform(1, 3)
    u = LATTICE / optimum
    shapes = (
        gain * np.where(u > 1, 1 - 0.25 * (u - 1) ** 2, u * (2 - u)),
        gain * u * np.exp(1 - u),
        gain * (1 - np.exp(-2 * u)) / (1 - math.exp(-2)),
        -gain * np.abs(u) / 2,
        np.zeros_like(u),
    )
    useless = random.uniform() < 0.2
    shape = shapes[random.integers(3, 5) if useless else random.integers(3)]
    return optimum, np.maximum(shape, -depth) - depth * fallen(cliff, 0.15)


def optimum_at(at: float, gain: float = 0.7) -> Callable[[Generator], tuple[float, Floats]]:
    u = LATTICE / at
    return lambda _: (at, np.maximum(gain * u * np.exp(1 - u), -2) - 2 * fallen(2.5 * at, 0.15))


def two_humps(random: Generator) -> tuple[float, Floats]:
    """At 0.3 and at 8, theta1's reward between them; either may be the higher one."""
    high = 0.8 if random.uniform() < 0.5 else 0.4
    humps = high * hump(0.3, 0.6) + (1.2 - high) * hump(8.0, 0.6)
    return 0.3, np.where(LATTICE > 0, humps, 2 * LATTICE) - 2 * fallen(25.0, 0.15)


def plateau(_: Generator) -> tuple[float, Floats]:
    """All alphas from about 0.3 to 30 are equally good."""
    return 0.3, np.maximum(0.5 * (1 - np.exp(-LATTICE / 0.1)), -2)


def nothing(_: Generator) -> tuple[float, Floats]:
    return 1.0, np.zeros_like(LATTICE)


def edge(random: Generator) -> tuple[float, Floats]:
    """The reward rises to the very edge of a cliff."""
    at = math.exp(random.uniform(math.log(0.2), math.log(10)))
    return at, np.maximum(0.7 * LATTICE / at, -1) * (at >= LATTICE) - 3 * (at < LATTICE)


def fallen(cliff: float, width: float) -> Floats:
    """From 0 to 1, in log alpha."""
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(LATTICE > 0, np.log(LATTICE / cliff), -math.inf)
    return np.asarray(1 / (1 + np.exp(np.minimum(-behind / width, 50))))


def hump(at: float, width: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(LATTICE > 0, np.log(LATTICE / at), math.inf)
    return np.asarray(np.exp(-((x / width) ** 2)))


KINDS: dict[str, Callable[[Generator], tuple[float, Floats]]] = {
    "usual": usual,
    "low": optimum_at(0.06),
    "high": optimum_at(20.0),
    "two-humps": two_humps,
    "plateau": plateau,
    "nothing": nothing,
    "edge": edge,
    "heavy-tails": usual,
}


class Noise:
    """Of standard deviation 1: the prompt's part, a part that neighbouring alphas share, and each alpha's own.

    With heavy tails, the own part is Student's t with 2.5 degrees of freedom, and skewed.
    """

    PROMPT, NEIGHBOUR = 0.3, 0.4

    def __init__(self, random: Generator, optimum: float, *, heavy: bool) -> None:
        self._random, self._heavy = random, heavy
        x = np.sign(LATTICE) * np.log1p(np.abs(LATTICE) / (0.1 * optimum))
        alike = np.exp(-np.abs(x[:, None] - x))
        self._root = np.linalg.cholesky(alike + 1e-9 * np.eye(len(x)))

    def shared(self, prompts: int) -> Floats:
        prompt, neighbour = self._random.standard_normal((2, len(LATTICE), prompts))
        smooth = math.sqrt(self.PROMPT) * prompt[0] + math.sqrt(self.NEIGHBOUR) * (self._root @ neighbour)
        return np.asarray(smooth + math.sqrt(1 - self.PROMPT - self.NEIGHBOUR) * self.own(prompts))

    def fresh(self, prompts: int) -> Floats:
        prompt = self._random.standard_normal(prompts)
        return np.asarray(math.sqrt(self.PROMPT) * prompt + math.sqrt(1 - self.PROMPT) * self.own(prompts))

    def own(self, prompts: int) -> Floats:
        size = (len(LATTICE), prompts)
        if not self._heavy:
            return self._random.standard_normal(size)
        drawn = self._random.standard_t(2.5, size) / math.sqrt(5)
        return np.where(drawn > 0, drawn * math.sqrt(0.4), drawn * math.sqrt(1.6))


def drawn_worlds(kind: str, prompts: int, replays: int) -> Iterator[World]:
    to_confirm = round(CONFIRM_SHARE * prompts)
    to_search = prompts - to_confirm
    for seed in range(replays):
        random = np.random.default_rng([7, seed])
        optimum, truth = KINDS[kind](random)
        noise = Noise(random, optimum, heavy=kind == "heavy-tails")
        yield World(
            alphas=LATTICE,
            choices=ALPHAS,
            truth=truth,
            known=truth,
            preset=fitting(LATTICE, truth),
            search=truth[:, None] + noise.shared(to_search),
            tokens=np.ones((len(LATTICE), to_search)),
            alone=truth[:, None] + random.standard_normal((len(LATTICE), to_search)),
            confirm=truth[:, None] + noise.fresh(to_confirm),
            confirm_tokens=np.ones((len(LATTICE), to_confirm)),
            fluent=tuple(range(len(LATTICE))),
        )


# -- methods ---------------------------------------------------------------------------------------------------------

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
    places = world.watch.fluent(counts) if world.watch else counts
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
    rewards = world.search if method.paired else world.alone
    rows: dict[float, list[float]] = {}

    def reward(alpha: float, prompt: str) -> float:
        if alpha not in rows:
            rows[alpha] = rewards[nearest(world.alphas, alpha)].tolist()
        return rows[alpha][int(prompt)]

    def collapse(alpha: float, count: int) -> str | None:
        if not method.guarded or world.watch is None:
            return None
        place = nearest(world.alphas, alpha)
        symptom = world.watch.collapse(place, count)
        return world.watch.astray(place, count) if symptom is None and method.fluently else symptom

    return play(method.strategy(world), [str(each) for each in range(rewards.shape[1])], reward, collapse=collapse)


def fitting(alphas: Floats, truth: Floats) -> str:
    """The preset of the paper that would end best if it saw the truth; of equal ones the cheapest."""
    ends = {}
    for name, intervals in PRESETS.items():
        seen = play(Paper(intervals), ("",), lambda alpha, _: float(truth[nearest(alphas, alpha)]))
        end = max(float(mine[0]) for mine in answered(seen).values())
        ends[name] = (round(end, 6), -len({nearest(alphas, alpha) for alpha in seen.rewards}))
    return max(ends, key=lambda name: ends[name])


def verdict(world: World, choice: int) -> Verdict:
    if choice not in world.verdicts:
        mine, theta1 = (
            Confirmed(world.confirm[at].tolist(), world.confirm_tokens[at].tolist()) for at in (choice, world.theta1)
        )
        objection = world.watch.objection(choice) if world.watch else None
        decision = decide(float(world.alphas[choice]), mine, theta1, objection=objection)
        world.verdicts[choice] = decision.verdict
    return world.verdicts[choice]


# -- measures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """One method in one world: all that the measures need."""

    gained: float
    gain: float
    cost: float
    completions: int
    tokens: float
    verdict: Verdict


def replayed(world: World) -> dict[str, Replayed]:
    truth = world.truth - world.truth[world.theta1]
    return {
        name: Replayed(
            gained=float(truth[found.choice]),
            gain=float((truth[list(world.fluent)] if found.fluently else truth).max()),
            cost=found.completions / world.search.shape[1],
            completions=found.completions,
            tokens=found.tokens,
            verdict=verdict(world, found.choice),
        )
        for name, found in replay(world).items()
    }


def measures(mine: Sequence[Replayed], papers: Sequence[Replayed], *, useless: bool) -> dict[str, float]:
    """Means over the replays, with their standard errors as `..._se`."""
    each = {
        "cost": [one.cost for one in mine],
        "worse": [float(one.gained < -1e-9) for one in mine],
        "ships": [float(one.verdict is Verdict.SHIP) for one in mine],
    }
    if not useless:
        each["regret"] = [1 - one.gained / one.gain for one in mine]
        each["gated"] = [1 - (one.verdict is Verdict.SHIP) * one.gained / one.gain for one in mine]
    result = {}
    for name, values in each.items():
        result[name] = statistics.fmean(values)
        result[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values))
    if not useless:
        # Worlds with little to gain count for little.
        result["regret of sums"] = 1 - sum(one.gained for one in mine) / sum(one.gain for one in mine)
    for name in ("completions", "tokens"):
        result[f"{name}/paper"] = sum(getattr(one, name) for one in mine) / sum(getattr(one, name) for one in papers)
    return result


def shares(mine: Sequence[Replayed]) -> dict[str, float]:
    return {each.value: statistics.fmean(one.verdict is each for one in mine) for each in Verdict}


def shown(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = [key for key in next(iter(rows.values())) if not key.endswith("_se")]
    lines = ["", f"{title:24s}" + "".join(f"{column:>18s}" for column in columns)]
    for name, row in rows.items():
        cells = (f"{row[key]:.3f}" + (f" ± {row[f'{key}_se']:.3f}" if f"{key}_se" in row else "") for key in columns)
        lines.append(f"{name:24s}" + "".join(f"{cell:>18s}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, metavar="TABLE.parquet")
    parser.add_argument("--theta0", type=Path, help="theta0's table; default: theta0.parquet beside TABLE")
    parser.add_argument("--worlds", default="", help=f"any of {', '.join(KINDS)}")
    parser.add_argument("--useless", default=USELESS, help="tables of directions without a gain; default: %(default)s")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"prompts": options.prompts, "replays": options.replays, "groups": {}}

    def report(title: str, runs: Sequence[Mapping[str, Replayed]], *, useless: bool) -> None:
        by_name = {name: [run[name] for run in runs] for name in runs[0]}
        rows = {name: measures(mine, by_name[PAPER], useless=useless) for name, mine in by_name.items()}
        verdicts = {name: shares(mine) for name, mine in by_name.items()}
        results["groups"][title] = {"measures": rows, "verdicts": verdicts}
        print(shown(title, rows), shown("verdicts", verdicts), sep="\n", flush=True)

    for kind in filter(None, options.worlds.split(",")):
        clock = time.process_time()
        runs = [replayed(world) for world in drawn_worlds(kind, options.prompts, options.replays)]
        for title, useless in ((kind, False), (f"{kind}, useless", True)):
            kept = [run for run in runs if (run[PAPER].gain < 0.1) == useless]
            if len(kept) > 1:
                report(title, kept, useless=useless)
        print(f"{time.process_time() - clock:.0f} s of processor time", flush=True)
    for path in options.tables:
        clock = time.process_time()
        table = read_table(path, options.theta0 or path.with_name("theta0.parquet"))
        useless = path.stem in options.useless.split(",")
        for title, centred in ((path.stem, False), (f"{path.stem}, centred", True))[: 1 + useless]:
            worlds = table_worlds(table, options.prompts, options.replays, centred=centred)
            report(title, [replayed(world) for world in worlds], useless=useless)
        print(f"{time.process_time() - clock:.0f} s of processor time", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
