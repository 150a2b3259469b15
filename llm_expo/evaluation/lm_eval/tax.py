"""The alignment tax as a table of differences, and what stands out of it: pure, numbers in, numbers out.

Reported scores, without their items, can only be compared as if the two models had answered different items (`tax`).
They answered the same ones, mostly alike, so the standard error of the difference is, if anything, too large, and the
test too cautious. Where the items are there, paired.py makes the cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval.results import Results
from llm_expo.stats import Interval

EXTRAPOLATED = "-ExPO"
"""The paper's mark for an extrapolated model's name."""

LEVEL = 0.05

_ONE_SIDED = 1.6448536269514722
"""The normal distribution's 95 % quantile."""

Test = Literal["unpaired normal", "McNemar", "paired t", "paired normal"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A model minus its reference on one task, in points (or nats, of likelihoods); below 0 it is a tax.

    `p` two-sided by `test`; `significant` at 5 % over all cells of the table (Holm). Both errors and p are None where a
    score came without its standard error.
    """

    model: str
    reference: str
    task: str
    before: float
    after: float
    se: float | None
    p: float | None
    test: Test = "unpaired normal"
    significant: bool = False

    @property
    def difference(self) -> float:
        return self.after - self.before


def pair_up(results: Sequence[Results]) -> list[tuple[Results, Results]]:
    """(reference, model): each NAME-ExPO with NAME where names are so; otherwise each model with the first.

    Raises EvaluationError for fewer than two models, or a name that stands twice.
    """
    named = {each.model: each for each in results}
    if len(named) != len(results):
        names = [each.model for each in results]
        twice = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"the results hold {twice} twice")
    if len(results) < 2:
        raise EvaluationError("a tax is a difference: give the results of two models or more, the reference first")
    pairs = [
        (named[base], each)
        for each in results
        if each.model.endswith(EXTRAPOLATED) and (base := each.model.removesuffix(EXTRAPOLATED)) in named
    ]
    return pairs or [(results[0], each) for each in results[1:]]


def tax(pairs: Sequence[tuple[Results, Results]]) -> list[Cell]:
    """A cell for each model and each task that both have.

    Raises EvaluationError where the two have no task, or not the same metric of one.
    """
    cells = []
    for reference, model in pairs:
        shared = [task for task in reference.scores if task in model.scores]
        if not shared:
            raise EvaluationError(
                f"{reference.model} and {model.model} have no task in common: {', '.join(reference.scores)}; "
                f"{', '.join(model.scores)}"
            )
        for task in shared:
            before, after = reference.scores[task], model.scores[task]
            if before.metric != after.metric:
                raise EvaluationError(
                    f"{task}: {reference.model} has {before.metric} and {model.model} {after.metric}; compare one"
                )
            se = None if before.se is None or after.se is None else math.hypot(before.se, after.se)
            p = two_sided(after.value - before.value, se)
            cells.append(Cell(model.model, reference.model, task, before.value, after.value, se, p))
    return holm(cells)


def lost(cells: Sequence[Cell]) -> Interval:
    """What a model loses in the mean over its table, in points: above 0 is a tax.

    The interval is two-sided at 90 % by the normal distribution, so its upper end bounds the tax with 95 % confidence.

    Raises EvaluationError where a task has too few items for a standard error.
    """
    for each in cells:
        if each.se is None:
            raise EvaluationError(f"{each.task}: too few items for a standard error")
    mean = -math.fsum(each.difference for each in cells) / len(cells)
    se = math.hypot(*(each.se for each in cells if each.se is not None)) / len(cells)
    reach = _ONE_SIDED * se
    return Interval(mean, se, mean - reach, mean + reach, len(cells), 0.9)


def two_sided(difference: float, se: float | None) -> float | None:
    """p of a difference, by the normal distribution."""
    if se is None:
        return None
    if se == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / se / math.sqrt(2))


def holm(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, significant or not, by Holm's step-down (1979): the k-th smallest of m p is held against
    0.05 / (m - k + 1).
    """
    tested = sorted((each.p, place) for place, each in enumerate(cells) if each.p is not None)
    significant = set()
    for rank, (p, place) in enumerate(tested):
        if p > LEVEL / (len(tested) - rank):
            break
        significant.add(place)
    return [replace(each, significant=place in significant) for place, each in enumerate(cells)]
