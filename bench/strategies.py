"""What the strategies of the search win and cost, replayed on rewards that are all there already.

    python bench/strategies.py TABLE.parquet... [--useless NAME,...] [--prompts 128] [--replays 500] [--out FILE.json]
    python bench/strategies.py --worlds [--prompts 128] [--replays 500] [--out FILE.json]

TABLE is a dense reward table as experiments/zoo/results.py writes it: alpha, prompt, sample and reward for each reply;
sample 0 met the same noise at every alpha, sample 1 fresh noise at each. A replay draws prompts with replacement, two
thirds to search on, from sample 0, and one third to confirm on, from sample 1; the truth is the mean of the whole
table, so that `all replies`, the alpha that is best in all of sample 0, misses a little, too. Alphas come from the
table's lattice: `race` and the log grid are given it, and an alpha that another strategy asks for is answered by the
one nearest to it (in ratio), and paid for once.

--worlds draws a world for each replay instead: an optimum log-uniform in 0.1 to 10, a gain of 0.3 to 2 standard
deviations of the reward, a cliff at 1.5 to 4 times the optimum; in one world of five nothing helps. Strategies were
tuned on worlds like these, so this is no evidence for them; the tables are.

regret: the share of the gain to be had, best alpha over theta1, that the choice misses. cost: completions of the search
for each search prompt. worse: the share of replays that choose what is worse than theta1. ships: the choice's one-sided
95 % lower bound over theta1 on the confirm prompts is above 0. gated: as regret, with theta1 where it does not ship.
Tables of useless directions come twice, the second time with every alpha's confirm rewards lowered until their mean in
the table is at most theta1's: a finite table of nothing holds small gains by chance, and these are no errors.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_expo.search.budget import Budget
from llm_expo.search.choice import Rule, choose
from llm_expo.search.race import ALPHAS, BUDGET_PER_PROMPT, Race
from llm_expo.search.rounds import Seen, Strategy, answered
from llm_expo.search.strategies import PRESETS, Grid, OneAtATime, Paper
from llm_expo.stats import paired_difference
from llm_expo.testing import play

Floats = NDArray[np.float64]

CONFIRM_SHARE = 1 / 3
USELESS = "noise,reversed"
OCTAVE = 1.9  # lattices are rounded


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What one replay may see, and the truth. `alphas` [A] ascend; the rewards are [A, prompts]."""

    alphas: Floats
    choices: tuple[float, ...]
    """What `race` may ask for."""
    truth: Floats
    known: Floats
    """What `search` is drawn around: all that a search could find out."""
    search: Floats
    alone: Floats
    """As `search`, but every alpha meets prompts and noise of its own."""
    confirm: Floats

    @property
    def theta1(self) -> int:
        return self.nearest(0.0)

    def nearest(self, alpha: float) -> int:
        far = np.abs(self.alphas - alpha)
        if alpha > 0:
            with np.errstate(divide="ignore", invalid="ignore"):
                far = np.where(self.alphas > 0, np.abs(np.log(self.alphas / alpha)), math.inf)
        return int(np.argmin(far))


@dataclass(frozen=True, slots=True)
class Found:
    choice: int
    completions: int


Method = Callable[[World], Found]


# -- worlds ----------------------------------------------------------------------------------------------------------


def table_worlds(path: Path, prompts: int, replays: int, *, centred: bool = False) -> Iterator[World]:
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=["alpha", "prompt", "sample", "reward"]).to_pydict()
    alphas, alpha_at = np.unique(columns["alpha"], return_inverse=True)
    names, prompt_at = np.unique(columns["prompt"], return_inverse=True)
    rewards = np.full((2, len(alphas), len(names)), np.nan)
    rewards[np.array(columns["sample"]), alpha_at, prompt_at] = columns["reward"]
    if np.isnan(rewards).any() or 0.0 not in alphas:
        raise SystemExit(f"{path}: not every alpha has both replies to every prompt, or there is no alpha 0")
    shared, fresh = rewards
    means = fresh.mean(axis=1)
    excess = np.maximum(means - means[alphas == 0], 0.0)[:, None] if centred else 0.0
    to_confirm = round(CONFIRM_SHARE * prompts)
    random = np.random.default_rng(0)
    for _ in range(replays):
        drawn = random.integers(len(names), size=(len(alphas) + 2, prompts))
        yield World(
            alphas=alphas,
            choices=tuple(float(alpha) for alpha in alphas if alpha not in (-1, 0)),
            truth=rewards.mean(axis=(0, 2)),
            known=shared.mean(axis=1),
            search=shared[:, drawn[0, to_confirm:]],
            alone=np.take_along_axis(fresh, drawn[2:, to_confirm:], axis=1),
            confirm=fresh[:, drawn[1, :to_confirm]] - excess,
        )


LATTICE = np.unique([-1.0, -0.75, -0.5, -0.25, 0.0, *ALPHAS, *(0.05 * 2 ** (np.arange(57) / 6))])


def drawn_worlds(prompts: int, replays: int) -> Iterator[World]:
    to_confirm = round(CONFIRM_SHARE * prompts)
    for seed in range(replays):
        random = np.random.default_rng([7, seed])
        optimum, truth = curve(random)
        noise = Noise(random, optimum)
        yield World(
            alphas=LATTICE,
            choices=ALPHAS,
            truth=truth,
            known=truth,
            search=truth[:, None] + noise.shared(prompts - to_confirm),
            alone=truth[:, None] + random.standard_normal((len(LATTICE), prompts - to_confirm)),
            confirm=truth[:, None] + noise.fresh(to_confirm),
        )


def curve(random: np.random.Generator) -> tuple[float, Floats]:
    """The optimum's alpha and the reward at LATTICE over theta1's."""
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
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(LATTICE > 0, np.log(LATTICE / cliff), -math.inf)
    fall = depth / (1 + np.exp(np.minimum(-behind / 0.15, 50)))
    return optimum, np.maximum(shape, -depth) - fall


class Noise:
    """Of standard deviation 1: the prompt's part, a part that neighbouring alphas share, and each alpha's own."""

    PROMPT, NEIGHBOUR = 0.3, 0.4

    def __init__(self, random: np.random.Generator, optimum: float) -> None:
        self._random = random
        x = np.sign(LATTICE) * np.log1p(np.abs(LATTICE) / (0.1 * optimum))
        alike = np.exp(-np.abs(x[:, None] - x))
        self._root = np.linalg.cholesky(alike + 1e-9 * np.eye(len(x)))

    def shared(self, prompts: int) -> Floats:
        own = self._random.standard_normal((3, len(LATTICE), prompts))
        prompt = math.sqrt(self.PROMPT) * own[0, 0]
        neighbour = math.sqrt(self.NEIGHBOUR) * (self._root @ own[1])
        return np.asarray(prompt + neighbour + math.sqrt(1 - self.PROMPT - self.NEIGHBOUR) * own[2])

    def fresh(self, prompts: int) -> Floats:
        own = self._random.standard_normal((len(LATTICE) + 1, prompts))
        return np.asarray(math.sqrt(self.PROMPT) * own[0] + math.sqrt(1 - self.PROMPT) * own[1:])


# -- methods ---------------------------------------------------------------------------------------------------------


def paired(strategy: Strategy, pick: Callable[[Seen], float]) -> Method:
    return lambda world: _found(world, strategy, pick, world.search)


def unpaired(strategy: Strategy, pick: Callable[[Seen], float]) -> Method:
    return lambda world: _found(world, strategy, pick, world.alone)


def _found(world: World, strategy: Strategy, pick: Callable[[Seen], float], rewards: Floats) -> Found:
    places: dict[float, int] = {}

    def reward(alpha: float, prompt: str) -> float:
        place = places.setdefault(alpha, world.nearest(alpha))
        return float(rewards[place, int(prompt)])

    seen = play(strategy, [str(each) for each in range(rewards.shape[1])], reward)
    paid: dict[int, int] = {}
    for alpha, count in seen.spent.completions.items():
        place = world.nearest(alpha)
        paid[place] = max(paid.get(place, 0), count)
    return Found(world.nearest(pick(seen)), sum(paid.values()))


def highest(seen: Seen) -> float:
    means = {alpha: statistics.fmean(mine) for alpha, mine in answered(seen).items()}
    return max(means, key=lambda alpha: (means[alpha], -abs(alpha)))


def by(rule: Rule) -> Callable[[Seen], float]:
    return lambda seen: choose(seen, rule)


def race(world: World, budget_per_prompt: float, pick: Callable[[Seen], float]) -> Found:
    budget = Budget(budget_per_prompt * world.search.shape[1])
    return _found(world, Race(budget, world.choices), pick, world.search)


def octaves(world: World) -> Strategy:
    rungs: list[float] = []
    for alpha in world.alphas[world.alphas > 0]:
        if not rungs or alpha >= OCTAVE * rungs[-1]:
            rungs.append(float(alpha))
    return OneAtATime(Grid(tuple(rungs)))


def fitting(world: World) -> str:
    """The preset of the paper that would end best if it saw the truth; of equal ones the cheapest."""
    exact = replace(world, search=world.truth[:, None])
    ends = {name: paired(OneAtATime(Paper(intervals)), highest)(exact) for name, intervals in PRESETS.items()}
    return max(ends, key=lambda name: (round(float(world.truth[ends[name].choice]), 6), -ends[name].completions))


METHODS: dict[str, Method] = {
    **{f"paper {name}": paired(OneAtATime(Paper(intervals)), highest) for name, intervals in PRESETS.items()},
    "paper, best fitting": lambda world: METHODS[f"paper {fitting(world)}"](world),
    "grid 0.1 to 0.5": paired(OneAtATime(Grid()), highest),
    "log grid, unpaired": lambda world: unpaired(octaves(world), highest)(world),
    "log grid": lambda world: paired(octaves(world), highest)(world),
    "race": lambda world: race(world, BUDGET_PER_PROMPT, by("best")),
    "race, highest mean": lambda world: race(world, BUDGET_PER_PROMPT, highest),
    "race, one-se": lambda world: race(world, BUDGET_PER_PROMPT, by("one-se")),
    "race, budget 1.5": lambda world: race(world, 1.5, by("best")),
    "race, budget 3": lambda world: race(world, 3.0, by("best")),
    "all replies": lambda world: Found(int(np.argmax(world.known)), world.search.shape[1] * len(world.alphas)),
}


# -- measures --------------------------------------------------------------------------------------------------------


def ships(world: World, choice: int) -> bool:
    if choice == world.theta1:
        return False
    return paired_difference(list(world.confirm[choice]), list(world.confirm[world.theta1]), confidence=0.9).low > 0


def measures(worlds: Sequence[World], founds: Sequence[Found], *, useless: bool) -> dict[str, float]:
    """Means over the replays, with their standard errors as `..._se`."""
    pairs = list(zip(worlds, founds, strict=True))
    gained = [float(world.truth[found.choice] - world.truth[world.theta1]) for world, found in pairs]
    gains = [float(world.truth.max() - world.truth[world.theta1]) for world in worlds]
    shipped = [ships(world, found.choice) for world, found in pairs]
    each = {
        "cost": [found.completions / world.search.shape[1] for world, found in pairs],
        "worse": [float(gain < -1e-9) for gain in gained],
        "ships": [float(ship) for ship in shipped],
    }
    if not useless:
        each["regret"] = [1 - mine / gain for mine, gain in zip(gained, gains, strict=True)]
        each["gated"] = [1 - ship * mine / gain for mine, gain, ship in zip(gained, gains, shipped, strict=True)]
    result = {}
    for name, values in each.items():
        result[name] = statistics.fmean(values)
        result[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values))
    if not useless:
        result["regret_of_sums"] = 1 - sum(gained) / sum(gains)  # worlds with little to gain count for little
    return result


def shown(title: str, rows: dict[str, dict[str, float]]) -> str:
    columns = [key for key in next(iter(rows.values())) if not key.endswith("_se")]
    lines = ["", f"{title:22s}" + "".join(f"{column:>18s}" for column in columns)]
    for name, row in rows.items():
        cells = (f"{row[key]:.3f}" + (f" ± {row[f'{key}_se']:.3f}" if f"{key}_se" in row else "") for key in columns)
        lines.append(f"{name:22s}" + "".join(f"{cell:>18s}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, metavar="TABLE.parquet")
    parser.add_argument("--worlds", action="store_true")
    parser.add_argument("--useless", default=USELESS, help="tables of directions without a gain; default: %(default)s")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"prompts": options.prompts, "replays": options.replays, "groups": {}}

    def report(title: str, worlds: Sequence[World], founds: dict[str, list[Found]], useless: bool) -> None:
        rows = {name: measures(worlds, found, useless=useless) for name, found in founds.items()}
        results["groups"][title] = rows
        print(shown(title, rows), flush=True)

    if options.worlds:
        worlds = list(drawn_worlds(options.prompts, options.replays))
        founds = searched(worlds)
        gains = [float(world.truth.max() - world.truth[world.theta1]) for world in worlds]
        for title, low, high in (("gain 0.3 to 2", 0.1, 9), ("gain 0.5 to 2", 0.5, 9), ("useless", -1, 0.1)):
            kept = [place for place, gain in enumerate(gains) if low <= gain < high]
            mine = {name: [found[place] for place in kept] for name, found in founds.items()}
            report(f"worlds, {title}", [worlds[place] for place in kept], mine, title == "useless")
    for path in options.tables:
        worlds = list(table_worlds(path, options.prompts, options.replays))
        founds = searched(worlds)
        useless = path.stem in options.useless.split(",")
        report(path.stem, worlds, founds, useless)
        if useless:
            lowered = list(table_worlds(path, options.prompts, options.replays, centred=True))
            report(f"{path.stem}, centred", lowered, founds, useless)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def searched(worlds: Sequence[World]) -> dict[str, list[Found]]:
    return {name: [method(world) for world in worlds] for name, method in METHODS.items()}


if __name__ == "__main__":
    main()
