"""What the strategies of the search win and cost, replayed on replies that are all there already.

    python bench/strategies TABLE.parquet... [--useless NAME,...] [--prompts 128] [--replays 500] [--out FILE.json]
    python bench/strategies --worlds usual,... [--prompts 128] [--replays 500] [--out FILE.json]

TABLE is a dense table as experiments/zoo/results.py writes it; theta0's own, theta0.parquet, lies beside it or is
given with --theta0. Sample 0 met the same noise at every alpha, sample 1 fresh noise at each. A replay draws prompts
with replacement, two thirds to search on, from sample 0, and one third to confirm on, from sample 1; the truth is the
mean of the whole table, so that `all replies`, the alpha that is best in all of sample 0, misses a little, too.
Alphas come from the table's lattice: `race` and the log grid are given it, and an alpha that another strategy asks
for is answered by the one nearest to it (in ratio), and paid for once. `paper, best fitting` is that one of the
paper's presets that would end best if it saw the truth.

`race` is watched by the guard, as far as tables go: log-probability, openings and ends of replies, a prompt that was
drawn twice counting once; no n-grams, repetition, compression or recall. It is calibrated on CALIBRATION replies of
theta0, which `race` pays for, and as many of theta1; an alpha is held against what theta1 has answered by then. The
others have no guard and choose by the highest mean, as the paper does.

--worlds draws a world for each replay instead (KINDS). Strategies were tuned on the usual ones, so these are no
evidence for them; the tables are. Nothing but the reward shows a collapse there, and all replies are of one length.

regret: the share of the gain to be had, best alpha over theta1, that the choice misses; for `race, fluent` the best
of those that the guard calls fluent by the whole table (below 0 where a replay takes one that the whole table would
not call so; empty where none is better than theta1). missed: the mean regret if none could be below 0. not fluent: the
share of choices that are not, by the whole table. cost: completions of the search for each search prompt;
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawn import KINDS, drawn_worlds
from methods import PAPER, replay, verdict
from tables import read_table, table_worlds
from world import World

from llm_expo.search.verdict import Verdict

USELESS = "noise,reversed"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One method in one world: all that the measures need."""

    gained: float
    gain: float
    fluent: bool
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
            fluent=found.choice in world.fluent,
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
        "not fluent": [float(not one.fluent) for one in mine],
        "worse": [float(one.gained < -1e-9) for one in mine],
        "ships": [float(one.verdict is Verdict.SHIP) for one in mine],
    }
    if not useless and all(one.gain for one in mine):  # of `fluent` there may be nothing to be had
        each["regret"] = [1 - one.gained / one.gain for one in mine]
        each["missed"] = [max(regret, 0.0) for regret in each["regret"]]
        each["gated"] = [1 - (one.verdict is Verdict.SHIP) * one.gained / one.gain for one in mine]
    result = {}
    for name, values in each.items():
        result[name] = statistics.fmean(values)
        result[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values))
    if "regret" in each:
        # Worlds with little to gain count for little.
        result["regret of sums"] = 1 - sum(one.gained for one in mine) / sum(one.gain for one in mine)
    for name in ("completions", "tokens"):
        result[f"{name}/paper"] = sum(getattr(one, name) for one in mine) / sum(getattr(one, name) for one in papers)
    return result


def shares(mine: Sequence[Replayed]) -> dict[str, float]:
    return {each.value: statistics.fmean(one.verdict is each for one in mine) for each in Verdict}


def shown(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row if not key.endswith("_se")))
    lines = ["", f"{title:24s}" + "".join(f"{column:>18s}" for column in columns)]
    for name, row in rows.items():
        cells = (
            f"{row[key]:.3f}" + (f" ± {row[f'{key}_se']:.3f}" if f"{key}_se" in row else "") if key in row else ""
            for key in columns
        )
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
