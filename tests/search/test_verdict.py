import pytest

from llm_expo.search.verdict import Verdict, judge, prompts_needed
from llm_expo.stats import Interval, paired_difference

BASELINE = [0.0, 2.0] * 50  # standard deviation 1.005: a gain of 0.1 matters


def interval(low: float, high: float, n: int = 100) -> Interval:
    return Interval((low + high) / 2, (high - low) / 4, low, high, n)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.5, Verdict.SHIP),
        (0.001, 0.002, Verdict.SHIP),
        (-0.1, 0.09, Verdict.NO_GAIN),
        (-2.0, -1.0, Verdict.NO_GAIN),
        (-0.1, 0.2, Verdict.UNDERPOWERED),
        (0.0, 0.5, Verdict.UNDERPOWERED),
    ],
)
def test_the_first_that_holds(low, high, verdict):
    assert judge(interval(low, high), BASELINE) is verdict


def test_theta1_itself_is_no_gain():
    assert judge(None, BASELINE) is Verdict.NO_GAIN


def test_equal_rewards_are_no_gain():
    assert judge(Interval(0, 0, 0, 0, 50), [1.0] * 50) is Verdict.NO_GAIN


def test_few_prompts_never_ship():
    assert judge(Interval(1, 0, 1, 1, 19), BASELINE) is Verdict.UNDERPOWERED
    assert judge(Interval(1, 0, 1, 1, 20), BASELINE) is Verdict.SHIP


def test_prompts_needed_by_hand():
    """(z(1 - 0.0125) + z(0.8)) * se / mean = (2.2414 + 0.8416) * 0.1 / 0.1, squared, times 50."""
    assert prompts_needed(interval(-0.1, 0.3, n=50)) == 476
    assert prompts_needed(interval(-0.3, 0.1)) is None
    assert prompts_needed(interval(0.9, 1.0, n=20)) == 20


def test_a_useless_alpha_rarely_ships():
    import numpy as np

    rng = np.random.default_rng(0)
    shipped = sum(
        judge(paired_difference(rng.normal(size=60), baseline), baseline) is Verdict.SHIP
        for baseline in rng.normal(size=(400, 60))
    )
    assert shipped <= 0.05 * 400
