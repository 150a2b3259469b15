"""docs/zoo.md and its pictures, from the Parquet files in results/ and the words in page.md.

    python experiments/zoo/page.py

`{{name}}` in page.md stands for the table of that name below. A standard error is over prompts: the two replies to a
prompt are averaged first.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pairs import PAIRS, REPEATED, THETA0, objective_of
from table import CLIMB, OTHER_SEED, SEED, THEN, past_cliff

from llm_expo.stats import Interval, paired_difference

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
FLUENT = -1.85  # nats a token under theta0: a limit at which the replies still answer (docs/log.md)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alpha:
    """All replies of one pair at one alpha; arrays of shape (samples, prompts), prompts in one order everywhere."""

    alpha: float
    columns: Mapping[str, NDArray[Any]]

    def mean(self, column: str) -> float:
        return float(self.columns[column].mean())

    def by_prompt(self, column: str) -> Floats:
        return self.columns[column].astype(np.float64).mean(axis=0)

    def error(self, column: str) -> float:
        values = self.by_prompt(column)
        return float(values.std(ddof=1) / np.sqrt(values.size))

    @cached_property
    def rewards(self) -> list[float]:
        return list(self.by_prompt("reward"))

    @property
    def reward(self) -> float:
        return self.mean("reward")

    @property
    def log_probability(self) -> float:
        return self.mean("log_probability")

    @property
    def distinct_openings(self) -> float:
        """Over the prompts of one sample, as the search tells it; the mean over samples."""
        return statistics.fmean(len(set(row)) / len(row) for row in self.columns["opening"])

    def gain(self, other: "Alpha") -> Interval:
        return paired_difference(self.rewards, other.rewards)


Table = Mapping[float, Alpha]


def read(name: str) -> dict[float, Alpha]:
    """By alpha; nothing as long as nothing of it was measured."""
    if not (HERE / "results" / f"{name}.parquet").exists():
        return {}
    rows = pq.read_table(HERE / "results" / f"{name}.parquet").to_pandas()
    found = {}
    for alpha, mine in rows.sort_values(["sample", "prompt"]).groupby("alpha"):
        samples = mine["sample"].nunique()
        shaped = {column: mine[column].to_numpy().reshape(samples, -1) for column in mine.columns}
        found[float(alpha)] = Alpha(float(alpha), shaped)
    return found


def main() -> None:
    tables = {name: table for name in PAIRS if 0.0 in (table := read(name))}
    theta0 = {objective: read(name) for objective, name in THETA0.items()}
    whole = {name: theta0[objective_of(name)] | table for name, table in tables.items()}
    parts = {
        "missing": ", ".join(f"`{name}`" for name in PAIRS if name not in whole) or "none",
        "figures": figures(whole),
        "optima": optima(whole),
        "rewards": rewards(whole),
        "halves": halves(whole),
        "repeated": repeated(whole.get(REPEATED, {}), read(f"{REPEATED}-seed-{OTHER_SEED}")),
    }
    words = (HERE / "page.md").read_text()
    (DOCS / "zoo.md").write_text(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], words))


def optima(pairs: Mapping[str, Table]) -> str:
    rows = []
    for name, table in pairs.items():
        theta1, best = table[0.0], max(table.values(), key=lambda each: each.reward)
        level = [each.alpha for each in table.values() if best.gain(each).low <= 0]
        fluent = max(
            (each for each in table.values() if each.log_probability >= FLUENT),
            key=lambda each: each.reward,
        )
        rows.append(
            [
                name,
                shown(theta1.gain(table[-1.0])),
                f"{theta1.reward:.2f}",
                f"{best.alpha:g}",
                f"{min(level):g} to {max(level):g}",
                f"{best.reward:.2f}",
                shown(best.gain(theta1)) if best is not theta1 else "",
                f"{theta1.log_probability:.2f}, {best.log_probability:.2f}",
                f"{theta1.mean('tokens'):.0f}, {best.mean('tokens'):.0f}",
                f"{theta1.mean('truncated'):.0%}, {best.mean('truncated'):.0%}",
                f"{theta1.distinct_openings:.2f}, {best.distinct_openings:.2f}",
                f"{theta1.mean('repetition'):.2f}, {best.mean('repetition'):.2f}",
                cliff(table),
                f"{fluent.alpha:g}",
                shown(fluent.gain(theta1)) if fluent is not theta1 else "",
            ]
        )
    head = [
        *("pair", "theta1 - theta0", "alpha 0", "best alpha", "level with it", "reward", "gain", "log p: 0, best"),
        *("tokens", "cut off", "distinct openings", "repetition", "cliff"),
        *(f"best with log p >= {FLUENT:g}", "gain there"),
    ]
    return markdown(head, rows)


def cliff(table: Table) -> str:
    """The first alpha past the cliff, as table.py walks."""
    met: dict[float, Any] = {}
    for alpha in CLIMB:
        if alpha in table:
            met[alpha] = table[alpha]
            if past_cliff(alpha, met):
                return f"{alpha:g}"
    return "not met"


def rewards(pairs: Mapping[str, Table]) -> str:
    """Every pair on the lattice that all share; midpoints are in the figures."""
    alphas = sorted({-1.0, *CLIMB, *THEN})
    rows = [
        [name, *(f"{table[alpha].reward:.2f}" if alpha in table else "" for alpha in alphas)]
        for name, table in pairs.items()
    ]
    return markdown(["pair", *(f"{alpha:g}" for alpha in alphas)], rows)


def halves(pairs: Mapping[str, Table]) -> str:
    """One sample a prompt against the other: would each choose the same alpha, and what would it cost?"""
    rows = []
    for name, table in pairs.items():
        alphas = sorted(table)
        first, second = (
            np.array([table[alpha].columns["reward"][sample].mean() for alpha in alphas]) for sample in (0, 1)
        )
        differences = [
            paired_difference(*(list(table[alpha].columns["reward"][sample].astype(float)) for sample in (0, 1)))
            for alpha in alphas
        ]
        chosen = [int(values.argmax()) for values in (first, second)]
        rows.append(
            [
                name,
                f"{np.sqrt(np.mean((first - second) ** 2)):.3f}",
                f"{np.sqrt(np.mean([each.se**2 for each in differences])):.3f}",
                f"{np.corrcoef(first, second)[0, 1]:.3f}",
                f"{alphas[chosen[0]]:g}, {alphas[chosen[1]]:g}",
                f"{second.max() - second[chosen[0]]:.2f}, {first.max() - first[chosen[1]]:.2f}",
            ]
        )
    head = ["pair", "root mean square difference", "its expectation", "correlation", "best alpha of each", "regret"]
    return markdown(head, rows)


def repeated(table: Table, again: Table) -> str:
    rows = []
    for alpha in sorted(table.keys() & again.keys()):
        one, other = table[alpha], again[alpha]
        rows.append(
            [
                f"{alpha:g}",
                *(f"{each.reward:.2f} ± {each.error('reward'):.2f}" for each in (one, other)),
                shown(other.gain(one)),
                f"{one.log_probability:.2f}, {other.log_probability:.2f}",
                f"{one.mean('tokens'):.1f}, {other.mean('tokens'):.1f}",
            ]
        )
    return markdown(["alpha", f"seed {SEED}", f"seed {OTHER_SEED}", "difference, paired", "log p", "tokens"], rows)


def figures(pairs: Mapping[str, Table]) -> str:
    (DOCS / "zoo").mkdir(exist_ok=True)
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "zoo", "font.sans-serif": ["DejaVu Sans"], "font.size": 8}
    )
    for name, table in pairs.items():
        draw(name, [table[alpha] for alpha in sorted(table)])
    return "\n".join(f"![{name}](zoo/{name}.svg)" for name in pairs)


def draw(name: str, rows: Sequence[Alpha]) -> None:
    figure = Figure(figsize=(9, 2.3), layout="constrained")
    alphas = [row.alpha for row in rows]
    reward, fluency, length = figure.subplots(1, 3)
    for axes, column, title in (
        (reward, "reward", "reward"),
        (fluency, "log_probability", "log p under theta0, nats per token"),
        (length, "tokens", "tokens"),
    ):
        errors = [1.96 * row.error(column) for row in rows]
        means = [row.mean(column) for row in rows]
        axes.vlines(alphas, np.subtract(means, errors), np.add(means, errors), color="#4477aa", linewidth=1)
        axes.plot(alphas, means, marker=".", linewidth=1, color="#4477aa")
        axes.set_title(title, fontsize=8)
        axes.axvline(0, color="#bbbbbb", linewidth=0.6, zorder=0)
        axes.set_xscale("asinh", linear_width=0.2)
        axes.set_xticks([-1, 0, 0.25, 1, 4, 16], ["-1", "0", "0.25", "1", "4", "16"], minor=False)
        axes.set_xticks([], minor=True)
    length.set_ylim(bottom=0)
    figure.suptitle(name, fontsize=9, fontweight="bold")
    figure.savefig(DOCS / "zoo" / f"{name}.svg", metadata={"Date": None})


def shown(interval: Interval) -> str:
    return f"{interval.mean:+.2f} ± {interval.se:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    main()
