"""Models beside each other on the same instructions, the first being the reference; every figure with its error.

The leaderboard has no standard error for the length-controlled win rate and none for a difference. Here instructions
are resampled, the same for all models, and the regression is fitted again each time, with the penalty that was chosen
on all instructions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.alpaca_eval.annotations import Annotation, Annotations
from llm_expo.evaluation.alpaca_eval.companion import Companion
from llm_expo.evaluation.alpaca_eval.length_control import LengthControlled, length_controlled, predict, rows_of
from llm_expo.evaluation.alpaca_eval.win_rate import WinRate, win_rate
from llm_expo.stats import Interval, paired_difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPLICATES = 500
"""Of the bootstrap: its standard error is then known to 3 %."""

_SEED = 42


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Of one model, in percent; `controlled_se` by the bootstrap."""

    model: str
    baseline: str
    plain: WinRate
    controlled: LengthControlled
    controlled_se: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A model minus the reference, in points: the plain win rate by Student's t over the instructions with both
    verdicts, the length-controlled one by the bootstrap (95 % between its percentiles).
    """

    model: str
    reference: str
    win_rate: Interval
    length_controlled: Interval


@dataclass(frozen=True, slots=True)
class Compared:
    models: tuple[ModelFigures, ...]
    differences: tuple[Difference, ...]
    replicates: int


def compare_models(
    sets: Sequence[Annotations], companion: Companion | None = None, replicates: int = REPLICATES
) -> Compared:
    """The figures of each set, and each later one's difference from the first. Models of one name are called by file.

    Raises:
        EvaluationError: as `length_controlled`; or the sets do not hold the same instructions with the same baseline.
        MissingExtraError: no scikit-learn.
    """
    first, *others = _named_apart(sets)
    aligned = [first, *(_aligned(each, first) for each in others)]
    plain = [win_rate(each) for each in aligned]
    controlled = [length_controlled(each, companion) for each in aligned]
    resampled = _resampled(aligned, controlled, companion, replicates)
    errors = resampled.std(axis=0, ddof=1)
    models = tuple(
        ModelFigures(each.model, each.baseline, rate, lc, float(error))
        for each, rate, lc, error in zip(aligned, plain, controlled, errors, strict=True)
    )
    differences = tuple(
        Difference(
            each.model,
            first.model,
            _plain_difference(each, first),
            _bootstrapped(lc.win_rate - controlled[0].win_rate, resampled[:, place] - resampled[:, 0], len(each.items)),
        )
        for place, (each, lc) in enumerate(zip(aligned[1:], controlled[1:], strict=True), start=1)
    )
    return Compared(models, differences, replicates)


def _named_apart(sets: Sequence[Annotations]) -> list[Annotations]:
    names = [each.model for each in sets]
    return [each if names.count(each.model) == 1 else replace(each, model=each.source) for each in sets]


def _aligned(annotations: Annotations, reference: Annotations) -> Annotations:
    """In the reference's order of instructions."""
    ours, theirs = _by_instruction(annotations), _by_instruction(reference)
    for has, lacks, source, other in (
        (theirs, ours, reference.source, annotations.source),
        (ours, theirs, annotations.source, reference.source),
    ):
        if alone := [each for each in has if each not in lacks]:
            raise EvaluationError(
                f"{source} judges {len(has)} instructions, {other} {len(lacks)}, and {len(alone)} of the former are "
                f"not among the latter, such as {alone[0][:60]!r}; compare models on the same instructions"
            )
    for instruction, item in theirs.items():
        if ours[instruction].baseline_output != item.baseline_output:
            raise EvaluationError(
                f"{annotations.source} and {reference.source} have different baseline outputs (output_1) for "
                f"{instruction[:60]!r}; judge both models against the same baseline"
            )
    # By index, too, they are the reference's: a file without `index` may have another order.
    items = tuple(replace(ours[each], index=item.index) for each, item in theirs.items())
    return replace(annotations, items=items, indexed=reference.indexed)


def _by_instruction(annotations: Annotations) -> dict[str, Annotation]:
    found: dict[str, Annotation] = {}
    for item in annotations.items:
        if item.instruction in found:
            raise EvaluationError(f"{annotations.source}: judges {item.instruction[:60]!r} twice")
        found[item.instruction] = item
    return found


def _resampled(
    sets: Sequence[Annotations], controlled: Sequence[LengthControlled], companion: Companion | None, replicates: int
) -> "NDArray[np.float64]":
    """Length-controlled win rates of resampled instructions, [replicates, models]."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    n = len(sets[0].items)
    # A model that is its own baseline has 50 % whatever is drawn; it was never fitted.
    fitted = [not math.isnan(lc.strength) for lc in controlled]
    rows = [rows_of(each, companion) if was else None for each, was in zip(sets, fitted, strict=True)]
    rates = np.full((replicates, len(sets)), 50.0)
    for replicate in range(replicates):
        places = rng.integers(n, size=n)
        for column, (each, lc) in enumerate(zip(rows, controlled, strict=True)):
            if each is not None:
                rates[replicate, column] = predict(each.take(places), lc.strength)[0]
    return rates


def _plain_difference(model: Annotations, reference: Annotations) -> Interval:
    both = [
        (100 * ours.share, 100 * theirs.share)
        for ours, theirs in zip(model.items, reference.items, strict=True)
        if ours.share is not None and theirs.share is not None
    ]
    if len(both) < 2:
        raise EvaluationError(f"{model.source} and {reference.source}: fewer than two instructions with both verdicts")
    return paired_difference([ours for ours, _ in both], [theirs for _, theirs in both])


def _bootstrapped(difference: float, resampled: "NDArray[np.float64]", n: int) -> Interval:
    import numpy as np

    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(difference, float(resampled.std(ddof=1)), float(low), float(high), n)
