import math

import numpy as np
import pytest

from llm_expo.stats import always_valid_difference, intercept, paired_difference


def test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.302653."""
    interval = paired_difference([2, 4, 6], [1, 2, 3])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.se == pytest.approx(1 / 3**0.5)
    assert interval.low == pytest.approx(2 - 4.30265273 / 3**0.5)
    assert interval.high == pytest.approx(2 + 4.30265273 / 3**0.5)


@pytest.mark.parametrize(("a", "b"), [([1], [1]), ([1, 2], [1, 2, 3]), ([], [])])
def test_needs_pairs(a, b):
    for interval in (paired_difference, always_valid_difference):
        with pytest.raises(ValueError, match="at least 2"):
            interval(a, b)


def e_value(differences, mean):
    """The martingale of theorem 4.9 of arXiv 2310.03722, with c = 1, against the mean."""
    x = np.array(differences) - mean
    n, v, s = len(x), float(x @ x), float(x.sum())
    return (1 / (n + 1)) ** 0.5 * ((n + 1) * v / ((n + 1) * v - s**2)) ** (n / 2)


def test_always_valid_ends_where_the_martingale_rejects():
    a, b = [2.0, 4.5, 6.0, 3.0, 5.0, 4.0, 2.5, 3.5], [1.0, 2, 3, 2, 3, 1, 2, 2.5]
    interval = always_valid_difference(a, b, 0.9)
    differences = np.array(a) - b
    assert interval.low < interval.mean == differences.mean() < interval.high
    assert interval.se == pytest.approx(paired_difference(a, b).se)
    for end in (interval.low, interval.high):
        assert e_value(differences, end) == pytest.approx(10)


def test_always_valid_is_unbounded_on_few_pairs():
    assert always_valid_difference([1, 2], [0, 0]).high == math.inf
    assert always_valid_difference([1, 2, 3], [0, 2, 1]).low == -math.inf


@pytest.mark.parametrize("draw", ["standard_normal", "laplace", "coins"])
def test_always_valid_errs_as_seldom_as_it_says_however_often_one_looks(draw):
    """A look after every fourth pair, up to 128; a t interval errs in a third of such sequences."""
    random = np.random.default_rng(0)
    size = (400, 128)
    drawn = random.integers(-1, 2, size).astype(float) if draw == "coins" else getattr(random, draw)(size=size)

    def errs(interval, sequence):
        looks = (interval(sequence[:n], np.zeros(n), 0.9) for n in range(4, 129, 4))
        return any(not look.low <= 0 <= look.high for look in looks)

    assert np.mean([errs(always_valid_difference, each) for each in drawn]) <= 0.1
    assert np.mean([errs(paired_difference, each) for each in drawn[:60]]) > 0.2


def test_always_valid_still_decides():
    """A gain of half a standard deviation, on 100 pairs."""
    drawn = np.random.default_rng(0).standard_normal((200, 100)) + 0.5
    assert np.mean([always_valid_difference(each, np.zeros(100), 0.95).low > 0 for each in drawn]) > 0.9


def test_the_intercept_by_hand():
    """Through (-1, 0), (0, 1), (1, 5): slope 2.5, at 0 the mean 2; residuals 0.5, -1, 0.5, leverages 5/6, 1/3, 5/6.

    HC3: each residual is divided by one minus its leverage, 3, -1.5, 3, and each weighs a third.
    """
    interval = intercept([0, 1, 5], [-1, 0, 1], confidence=0.9)
    assert interval.mean == pytest.approx(2)
    assert interval.se == pytest.approx(((3**2 + 1.5**2 + 3**2) / 9) ** 0.5)
    assert interval.high - interval.mean == pytest.approx(6.31375151 * interval.se)  # t(0.95, 1)
    assert (interval.n, interval.confidence) == (3, 0.9)


def test_the_intercept_where_all_x_are_alike():
    assert intercept([1, 2, 3], [0, 0, 0]) == paired_difference([1, 2, 3], [0, 0, 0])
    unknown = intercept([1, 2, 3], [1, 1, 1])
    assert (unknown.mean, unknown.low, unknown.high) == (2, -math.inf, math.inf)


def test_one_point_alone_at_its_x_says_nothing_of_errors():
    """As where all replies but one are cut off, so that their lengths are equal."""
    interval = intercept([1.0, 2.0, 3.0, 2.0, 9.0], [0, 0, 0, 0, 0.7])
    assert interval.mean == pytest.approx(2)
    assert interval.se == pytest.approx((2 * (1 / 4 / (1 - 1 / 4)) ** 2) ** 0.5)


def test_the_intercept_keeps_its_error_where_the_spread_grows():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(500):
        x = rng.normal(0.5, 0.4, size=60)
        wrong += intercept((x + rng.normal(size=60) * (0.2 + abs(x))).tolist(), x.tolist(), confidence=0.9).low > 0
    assert 0.02 * 500 <= wrong <= 0.08 * 500


@pytest.mark.parametrize(("y", "x"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2])])
def test_a_regression_needs_three_points(y, x):
    with pytest.raises(ValueError, match="at least 3"):
        intercept(y, x)
