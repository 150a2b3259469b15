"""Scores, their errors and differences, against values worked out by hand."""

import math

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.mt_bench import words
from llm_expo.evaluation.mt_bench.judgements import Judgement
from llm_expo.evaluation.mt_bench.scores import Score, compare_models, difference, score


def judgement(model: str, question: int, turn: int, rating: float | None) -> Judgement:
    return Judgement(question, turn, model, "judge", "single-v1", "asked", f"[[{rating}]]", rating)


def judged(model: str, *ratings: tuple[float | None, float | None]) -> list[Judgement]:
    """Of the questions 1, 2, ..."""
    return [judgement(model, q, turn, r) for q, both in enumerate(ratings, start=1) for turn, r in enumerate(both, 1)]


A = judged("a", (8, 6), (4, 2), (10, 9))
B = judged("b", (9, 6), (4, 4), (10, 9))


def test_the_two_turns_of_a_question_are_one_draw():
    ratings = {1: {1: 8.0, 2: 6.0}, 2: {1: 4.0, 2: 2.0}, 3: {1: 10.0, 2: 9.0}}
    found = score(ratings)  # the questions' means are 7, 3 and 9.5
    assert found == Score(6.5, pytest.approx(math.sqrt((0.5**2 + 3.5**2 + 3**2) / 2 / 3)), 3)
    assert score(ratings, (2,)) == Score(pytest.approx(17 / 3), pytest.approx(math.sqrt(74 / 3 / 2 / 3)), 3)
    assert score({1: {1: 8.0, 2: 6.0}}) == Score(7, None, 1)
    assert score({}) is None
    assert score({1: {1: 8.0}}, (2,)) is None


def test_what_has_no_rating_is_left_out_of_mean_and_error():
    # Deviations from 14/3: 10/3 of the first question, -2/3 - 8/3 of the second; sqrt(2 * 2 * (10/3)^2) / 3.
    assert score({1: {1: 8.0}, 2: {1: 4.0, 2: 2.0}}) == Score(pytest.approx(14 / 3), pytest.approx(20 / 9), 2)


def test_differences_are_paired_by_question():
    ours, theirs = {1: {1: 9.0, 2: 6.0}, 2: {1: 4.0, 2: 4.0}}, {1: {1: 8.0, 2: 6.0}, 2: {1: 4.0, 2: 2.0}}
    found = difference(ours, theirs)  # +0.5 and +1
    assert (found.mean, found.se, found.n) == (0.75, pytest.approx(0.25), 2)
    assert difference({1: {1: 9.0}, 2: {1: 4.0}}, theirs).mean == 0.5  # the first turns alone have both ratings
    assert difference({1: {1: 9.0}}, theirs) is None


def test_models_beside_each_other():
    compared = compare_models([*A, *B], {1: "math", 2: "writing", 3: "math", 4: "stem"})
    a, b = compared.models
    assert (a.model, a.totals["average"].mean, a.totals["turn 1"].mean) == ("a", 6.5, pytest.approx(22 / 3))
    assert {name: each.mean for name, each in b.categories.items()} == {"math": 8.5, "writing": 4.0}
    [found] = compared.differences
    assert (found.model, found.reference, found.totals["average"].mean) == ("b", "a", 0.5)
    assert found.totals["turn 2"].mean == pytest.approx(2 / 3)
    assert (found.categories["math"].mean, found.categories["writing"]) == (0.25, None)
    assert words.totals(compared) == [
        ("model", "average", "turn 1", "turn 2"),
        ("a", "6.50 ± 1.89", "7.33 ± 1.76", "5.67 ± 2.03"),
        ("b", "7.00 ± 1.61", "7.67 ± 1.86", "6.33 ± 1.45"),
        ("b - a", "+0.50 ± 0.29", "+0.33 ± 0.33", "+0.67 ± 0.67"),
    ]
    assert words.categories(compared)[1:] == [
        ("a", "8.25 ± 1.25", "3.00"),
        ("b", "8.50 ± 1.00", "4.00"),
        ("b - a", "+0.25 ± 0.25", "–"),
    ]
    assert words.lines(compared) == [
        "judged by judge, 1 to 10; ± is one standard error, over questions, differences paired",
        "b - a: average +0.50 ± 0.29 (95 % -0.74 to +1.74, 3 questions)",
    ]


def test_what_is_left_out_is_told():
    compared = compare_models(judged("a", (8, None), (40, 0)))
    assert compared.models[0].totals["average"].mean == 16  # as the original: whatever number stands in brackets counts
    assert words.lines(compared)[1:] == [
        "a: 1 of 4 judgements hold no rating and are left out: turn 2 of question 1",
        "a: 2 ratings lie outside 1 to 10, and count as they are",
    ]
    many = compare_models(judged("a", *[(5, None)] * 7))
    assert many.models[0].totals["turn 2"] is None
    assert words.totals(many)[1] == ("a", "5.00 ± 0.00", "5.00 ± 0.00", "–")
    assert words.lines(many)[1].endswith("turn 2 of question 4, turn 2 of question 5, ...")


def test_what_cannot_be_compared():
    with pytest.raises(EvaluationError) as error:
        compare_models([*A, *B[:-1]])
    assert str(error.value) == (
        "a has 6 judgements and b 5: only one has turn 2 of question 3; compare models on the same questions"
    )
    with pytest.raises(EvaluationError, match="question 3 is judged, and the questions given have none of that number"):
        compare_models(A, {1: "math", 2: "math"})
    with pytest.raises(
        EvaluationError, match=r"b: none of its 2 judgements holds a rating such as \[\[5\]\]; the first"
    ):
        compare_models([*judged("a", (1, 2)), *judged("b", (None, None))])
