"""MT-Bench's scores, and models beside each other, the first being the reference. Pure: judgements in, numbers out.

A score is FastChat's: the mean of all ratings; judgements without one are left out. Its standard error is over
questions: the two turns of a question are one draw, since the second one is asked and judged with the first.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.mt_bench.judgements import Judgement
from llm_expo.stats import Interval, paired_difference

Ratings = Mapping[int, Mapping[int, float]]
"""By question, then by turn; what has no rating is not there."""

TOTALS: dict[str, tuple[int, ...]] = {"average": (1, 2), "turn 1": (1,), "turn 2": (2,)}
"""Turns that count, by the score's name."""

_RANGE = (1, 10)


@dataclass(frozen=True, slots=True)
class Score:
    """`se` is None for fewer than two questions."""

    mean: float
    se: float | None
    questions: int


@dataclass(frozen=True, slots=True)
class ModelScores:
    """`totals` as `TOTALS`; `categories` by name, both turns; None where nothing was rated.

    `unrated`: (question, turn) of the judgements without a rating. `outside`: how many lie outside 1 to 10; they count.
    """

    model: str
    totals: Mapping[str, Score | None]
    categories: Mapping[str, Score | None]
    judgements: int
    unrated: tuple[tuple[int, int], ...]
    outside: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A model minus the reference, paired by question over the turns that have both ratings; None for fewer than two
    questions.
    """

    model: str
    reference: str
    totals: Mapping[str, Interval | None]
    categories: Mapping[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Compared:
    judge: str
    models: tuple[ModelScores, ...]
    differences: tuple[Difference, ...]


def compare_models(judgements: Sequence[Judgement], categories: Mapping[int, str] | None = None) -> Compared:
    """The scores of each model, in order of appearance, and each later one's difference from the first.

    Args:
        categories: by question; None where they are not known.

    Raises:
        EvaluationError: the models were not judged on the same turns, one has no rating at all, or a question has no
            category.
    """
    by_model: dict[str, list[Judgement]] = {}
    for each in judgements:
        by_model.setdefault(each.model, []).append(each)
    reference, *others = by_model
    for other in others:
        _same_turns(reference, by_model[reference], other, by_model[other])
    parts = _parts(by_model[reference], categories)
    ratings = {model: _ratings(judged) for model, judged in by_model.items()}
    models = tuple(_scores(model, judged, ratings[model], parts) for model, judged in by_model.items())
    differences = tuple(
        Difference(
            other,
            reference,
            {name: difference(ratings[other], ratings[reference], turns) for name, turns in TOTALS.items()},
            {
                name: difference(_of(ratings[other], part), _of(ratings[reference], part))
                for name, part in parts.items()
            },
        )
        for other in others
    )
    return Compared(judgements[0].judge, models, differences)


def score(ratings: Ratings, turns: Sequence[int] = (1, 2)) -> Score | None:
    """The mean of all ratings of these turns, a question's being drawn together.

    The standard error is that of a ratio of two means, ratings to their number: sqrt(n / (n-1) * sum r_q^2) / N with
    r_q the sum of a question's deviations from the mean, n questions, N ratings. Where every question has all turns,
    that is the usual one, of the questions' own means.
    """
    rated = [values for by_turn in ratings.values() if (values := [by_turn[turn] for turn in turns if turn in by_turn])]
    if not rated:
        return None
    n, count = len(rated), sum(map(len, rated))
    mean = math.fsum(map(math.fsum, rated)) / count
    squares = math.fsum(math.fsum(each - mean for each in values) ** 2 for values in rated)
    return Score(mean, math.sqrt(n / (n - 1) * squares) / count if n > 1 else None, n)


def difference(ours: Ratings, theirs: Ratings, turns: Sequence[int] = (1, 2)) -> Interval | None:
    """Ours minus theirs by question, over the turns that have both ratings."""
    a, b = [], []
    for question, by_turn in theirs.items():
        both = [turn for turn in turns if turn in by_turn and turn in ours.get(question, {})]
        if both:
            a.append(fmean(ours[question][turn] for turn in both))
            b.append(fmean(by_turn[turn] for turn in both))
    return paired_difference(a, b) if len(a) > 1 else None


def _scores(model: str, judged: Sequence[Judgement], ratings: Ratings, parts: Mapping[str, set[int]]) -> ModelScores:
    unrated = tuple((each.question, each.turn) for each in judged if each.score is None)
    if len(unrated) == len(judged):
        raise EvaluationError(
            f"{model}: none of its {len(judged)} judgements holds a rating such as [[5]]; the first says "
            f"{judged[0].said[:100]!r}; take another judge"
        )
    low, high = _RANGE
    return ModelScores(
        model,
        {name: score(ratings, turns) for name, turns in TOTALS.items()},
        {name: score(_of(ratings, part)) for name, part in parts.items()},
        len(judged),
        unrated,
        sum(not low <= each.score <= high for each in judged if each.score is not None),
    )


def _ratings(judged: Iterable[Judgement]) -> Ratings:
    found: dict[int, dict[int, float]] = {}
    for each in judged:
        if each.score is not None:
            found.setdefault(each.question, {})[each.turn] = each.score
    return found


def _of(ratings: Ratings, questions: set[int]) -> Ratings:
    return {question: by_turn for question, by_turn in ratings.items() if question in questions}


def _parts(judged: Sequence[Judgement], categories: Mapping[int, str] | None) -> dict[str, set[int]]:
    """Questions by category, in the order in which the categories are known."""
    if categories is None:
        return {}
    if missing := [each.question for each in judged if each.question not in categories]:
        raise EvaluationError(f"question {missing[0]} is judged, and the questions given have none of that number")
    asked = {each.question for each in judged}
    parts: dict[str, set[int]] = {}
    for question, category in categories.items():
        if question in asked:
            parts.setdefault(category, set()).add(question)
    return parts


def _same_turns(reference: str, theirs: Sequence[Judgement], model: str, ours: Sequence[Judgement]) -> None:
    a, b = ({(each.question, each.turn) for each in judged} for judged in (theirs, ours))
    if a != b:
        question, turn = min(a ^ b)
        raise EvaluationError(
            f"{reference} has {len(a)} judgements and {model} {len(b)}: only one has turn {turn} of question "
            f"{question}; compare models on the same questions"
        )
