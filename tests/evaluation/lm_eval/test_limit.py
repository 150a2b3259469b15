"""The best reward under a limit on the tax."""

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval.limit import Taxed, best_within

THETA1 = Taxed(0.0, 1.0, 0.0, 0.0)
SMALL = Taxed(0.5, 2.0, 0.3, 0.4)  # at the most 0.96 points
LARGE = Taxed(2.0, 3.0, 0.5, 0.5)  # at the most 1.32 points


def test_it_is_the_bound_that_counts():
    found = [THETA1, SMALL, LARGE]
    assert SMALL.bound == pytest.approx(0.3 + 1.645 * 0.4, abs=1e-3)
    assert best_within(found, 2.0) == LARGE
    assert best_within(found, 1.0) == SMALL  # LARGE's tax is 0.5, but it may be more than 1
    assert best_within(found, 0.5) == THETA1
    assert best_within([LARGE], 1.0) is None
    assert best_within([], 1.0) is None


def test_a_gain_is_no_tax_and_ties_go_to_the_smaller_alpha():
    gain = Taxed(1.0, 2.0, -1.0, 0.5)
    assert best_within([gain, SMALL], 0.1) == gain
    assert best_within([gain, SMALL], 1.0) == SMALL


def test_a_limit_that_nothing_would_meet():
    with pytest.raises(EvaluationError, match="--max-tax 0: a limit on the tax is above 0 points"):
        best_within([THETA1], 0.0)
