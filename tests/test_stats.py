import pytest

from llm_expo.stats import paired_difference


def test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.302653."""
    interval = paired_difference([2, 4, 6], [1, 2, 3])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.se == pytest.approx(1 / 3**0.5)
    assert interval.low == pytest.approx(2 - 4.30265273 / 3**0.5)
    assert interval.high == pytest.approx(2 + 4.30265273 / 3**0.5)


@pytest.mark.parametrize(("a", "b"), [([1], [1]), ([1, 2], [1, 2, 3]), ([], [])])
def test_needs_pairs(a, b):
    with pytest.raises(ValueError, match="at least 2"):
        paired_difference(a, b)
