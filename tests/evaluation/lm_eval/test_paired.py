"""Item by item: figures worked out by hand, and what was not the same item."""

import math

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval import words
from llm_expo.evaluation.lm_eval.paired import Answered, Item, gold_cells, score_cells


def answered(model: str, chat: bool = False, gold: float | None = None, **tasks: list[float]) -> Answered:
    items = {
        task: [
            Item(f"{task} {n}", f"prompt {n}", score, None if gold is None else gold - n) for n, score in enumerate(s)
        ]
        for task, s in tasks.items()
    }
    return Answered(model, chat, items)


def right(*spans: tuple[int, int]) -> list[float]:
    """The scores of 20 items, of which those in the spans are right."""
    return [100.0 if any(a <= n < b for a, b in spans) else 0.0 for n in range(20)]


def test_mcnemar_by_hand():
    # Of 9 items on which the two differ, theta1 had 8 right and the other model 1: 2 * (1 + 9) / 2**9.
    [cell] = score_cells([answered("a", x=right((0, 15))), answered("b", x=right((0, 7), (15, 16)))])
    assert (cell.before, cell.after, cell.test) == (75, 40, "McNemar")
    assert cell.p == pytest.approx(20 / 512)
    # Differences: 8 times -100, once 100, 11 times 0; mean -35, sum of squares 90000.
    assert cell.se == pytest.approx(math.sqrt((90000 - 20 * 35**2) / 19 / 20))
    assert cell.significant
    [same] = score_cells([answered("a", x=right((0, 3))), answered("b", x=right((0, 3)))])
    assert (same.difference, same.se, same.p) == (0, 0, 1)


def test_scores_in_between_by_the_paired_t_test():
    # Differences 1, 2, 3, 4: mean 2.5, standard error sqrt(5/3)/2, t = 3.873 with 3 degrees of freedom.
    [cell] = score_cells([answered("a", x=[10.0, 20, 30, 40]), answered("b", x=[11.0, 22, 33, 44])])
    assert (cell.difference, cell.test) == (2.5, "paired t")
    assert cell.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert cell.p == pytest.approx(0.03047, abs=1e-5)
    [steady] = score_cells([answered("a", x=[10.0, 20]), answered("b", x=[11.0, 21])])
    assert (steady.se, steady.p) == (0, 0)
    [single] = score_cells([answered("a", x=[100.0]), answered("b", x=[0.0])])
    assert (single.difference, single.se, single.p) == (-100, None, None)


def test_mmlu_is_the_plain_mean_of_its_subjects():
    before = answered("a", mmlu_anatomy=right((0, 10)), mmlu_virology=[100.0, 0, 100, 0])
    after = answered("b", mmlu_anatomy=right((0, 8)), mmlu_virology=[100.0, 0, 0, 0])
    [cell] = score_cells([before, after])
    assert (cell.task, cell.before, cell.after, cell.test) == ("mmlu", 50, 32.5, "paired normal")
    # Twice -100 of 20, once of 4.
    errors = [math.sqrt((20000 - 20 * 100) / 19 / 20), math.sqrt((10000 - 4 * 625) / 3 / 4)]
    assert cell.se == pytest.approx(math.hypot(*errors) / 2)
    assert cell.p == pytest.approx(math.erfc(17.5 / cell.se / math.sqrt(2)))


def test_the_right_answers_likelihood():
    before, after = (answered(name, gold=gold, x=[100.0, 0]) for name, gold in (("a", -1.0), ("b", -1.5)))
    [cell] = gold_cells([before, after])
    assert (cell.before, cell.after) == (-1.5, -2)
    assert words.table([cell], digits=3)[1] == ("b", "-0.500 ± 0.000**")
    assert gold_cells([answered("a", x=[0.0, 0]), answered("b", x=[0.0, 0])]) == []


def test_holm_is_over_all_models_and_tasks():
    first = answered("a", x=right((0, 15)), y=right((0, 15)))
    cells = score_cells([first, *(answered(name, x=right((0, 7), (15, 16)), y=right((0, 15))) for name in "bc")])
    assert [(cell.model, cell.task) for cell in cells] == [("b", "x"), ("b", "y"), ("c", "x"), ("c", "y")]
    assert [cell.p < 0.05 for cell in cells] == [True, False, True, False]
    assert not any(cell.significant for cell in cells)


def test_other_items_are_not_compared():
    a, b = answered("a", x=[0.0, 0]), answered("b", x=[0.0, 0, 0])
    with pytest.raises(EvaluationError, match="x: a has 2 items and b 3; take another --out"):
        score_cells([a, b])
    asked = Answered("b", False, {"x": [Item("x 0", "prompt 0", 0, None), Item("x 1", "another prompt", 0, None)]})
    with pytest.raises(EvaluationError, match="x: item 1 is not the same for a and b: the task or its data changed"):
        score_cells([a, asked])
    in_their_own_templates = Answered("b", True, asked.items)
    assert score_cells([Answered("a", True, a.items), in_their_own_templates])[0].difference == 0
