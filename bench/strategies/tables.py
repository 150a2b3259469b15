"""Worlds drawn from a dense table: prompts with replacement, the guard on the replies that the table has."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from world import CONFIRM_SHARE, Floats, World, fitting, nearest

from llm_expo.generation import Reply
from llm_expo.search import guard
from llm_expo.search.symptoms import Symptom
from llm_expo.search.walk import CALIBRATION

Places = NDArray[np.int64]


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


class TableWatch:
    """The guard over one replay, as a walk has it; what it said is kept, since all strategies meet the same replies."""

    def __init__(self, table: Table, search: Places, confirm: Places) -> None:
        self._table, self._drawn, self._theta1 = table, (search, confirm), table.place(0.0)
        self._calibrations = tuple(
            guard.calibrate(*(self._observed(sample, place, count) for place in (table.place(-1.0), self._theta1)))
            for sample, count in enumerate((CALIBRATION, len(confirm)))
        )
        self._said: dict[tuple[int, int, int], str | None] = {}

    def collapse(self, place: int, counts: Mapping[int, int]) -> str | None:
        """Its symptom in its first replies of the search, beside theta1's."""
        return self._judged(0, place, min(counts[place], self._answered(counts)), guard.LOOK_ERROR)

    def objection(self, place: int) -> str | None:
        """To a choice, by its replies to the confirm prompts."""
        return self._judged(1, place, len(self._drawn[1]), guard.AT_CONFIRMATION)

    def fluent(self, counts: Mapping[int, int], collapsed: Container[int]) -> frozenset[int]:
        return self._among(guard.fluent, counts, collapsed)

    def astray(self, counts: Mapping[int, int], collapsed: Container[int]) -> frozenset[int]:
        return self._among(guard.astray, counts, collapsed) - {self._theta1}

    def _among(
        self, found: Callable[..., frozenset[float]], counts: Mapping[int, int], collapsed: Container[int]
    ) -> frozenset[int]:
        alphas = {
            float(self._table.alphas[place]): self._observed(0, place, count)
            for place, count in counts.items()
            if place not in collapsed
        }
        theta1 = self._observed(0, self._theta1, self._answered(counts))
        return frozenset(map(self._table.place, found(alphas, replace(self._calibrations[0], theta1=theta1))))

    def _answered(self, counts: Mapping[int, int]) -> int:
        """By theta1: for the guard, or for the strategy, too."""
        return max(CALIBRATION, counts.get(self._theta1, 0))

    def _judged(self, sample: int, place: int, count: int, error: float) -> str | None:
        if place == self._theta1:
            return None
        if (key := (sample, place, count)) not in self._said:
            said = None
            if self._suspected(sample, place, count):
                theta1 = self._observed(sample, self._theta1, count)
                calibration = replace(self._calibrations[sample], theta1=theta1)
                objection = guard.judge(self._observed(sample, place, count), calibration, error)
                said = objection and str(objection)
            self._said[key] = said
        return self._said[key]

    def _suspected(self, sample: int, place: int, count: int) -> bool:
        """Whether any symptom's mean is its distance from theta1's: if not, no bound of it can be."""
        table, prompts = self._table, np.unique(self._drawn[sample][:count])
        distances = self._calibrations[sample].distances

        def near(symptom: Symptom, of: Callable[[int], float]) -> bool:
            return of(self._theta1) - of(place) <= distances[symptom]

        return not (
            near(Symptom.LOG_PROBABILITY, lambda at: table.log_probabilities[sample, at, prompts].mean())
            and near(Symptom.ENDED, lambda at: table.ended[sample, at, prompts].mean())
            and near(Symptom.OPENINGS, lambda at: len(np.unique(table.openings[sample, at, prompts])) / len(prompts))
        )

    def _observed(self, sample: int, place: int, count: int) -> guard.Observed:
        return self._table.observed(sample, place, np.unique(self._drawn[sample][:count]))


def fluent_places(table: Table) -> tuple[int, ...]:
    """Of alphas that are fluent over all prompts, each by itself, theta1 among them."""
    every = np.arange(table.rewards.shape[2])
    observed = [table.observed(0, place, every) for place in range(len(table.alphas))]
    calibration = guard.calibrate(observed[table.place(-1.0)], observed[table.place(0.0)])
    return tuple(
        place
        for place, alpha in enumerate(observed)
        if all(
            finding.worse.mean <= guard.FLUENT * finding.distance
            for finding in guard.examine(alpha, calibration)
            if finding.symptom in guard.FLUENT_BY
        )
    )


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
            watch=TableWatch(table, search, confirm),
        )
