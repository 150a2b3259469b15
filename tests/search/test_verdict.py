import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from llm_expo.search.verdict import (
    FEWEST_PROMPTS,
    Confirmed,
    Decision,
    Verdict,
    decide,
    error_at,
    gain_at_equal_length,
    prompts_to_decide,
)
from llm_expo.stats import Interval

NOISE = np.random.default_rng(7).normal(size=100).tolist()


def interval(low: float, high: float, n: int = 100) -> Interval:
    return Interval((low + high) / 2, (high - low) / 4, low, high, n)


def two(gain: float, noise: float = 1.0, n: int = 100, second: float | None = None) -> tuple[Confirmed, Confirmed]:
    """The choice and theta1 on n prompts, replies of equal lengths; the paired difference is `gain` on average."""
    own = np.asarray(NOISE[:n])
    own = noise * (own - own.mean()) / own.std(ddof=1) + gain
    theta1 = [0.0, 2.0] * (n // 2) + [1.0] * (n % 2)
    rewards = (np.asarray(theta1) + own).tolist()
    tokens = [float(50 + prompt) for prompt in range(n)]
    others = {} if second is None else {"other": (np.asarray(theta1) + own - gain + second).tolist()}
    return Confirmed(rewards, tokens, others), Confirmed(theta1, tokens, {} if second is None else {"other": theta1})


def longer(seed: int, n: int, gain: float, growth: float, worth: Callable[[np.ndarray], np.ndarray]) -> Decision:
    """A choice whose replies are `growth` times as long; a reply is worth `worth` of its length, and `gain` more."""
    rng = np.random.default_rng(seed)
    prompt, length = rng.normal(0, 0.6, n), np.log(200) + rng.normal(0, 0.5, n)
    sides = []
    for factor, more in ((growth, gain), (1.0, 0.0)):
        tokens = np.exp(length + np.log(factor) + rng.normal(0, 0.28, n)).round()
        sides.append(Confirmed((prompt + worth(tokens) + more + rng.normal(0, 0.8, n)).tolist(), tokens.tolist()))
    return decide(1.0, *sides)


def nothing(tokens: np.ndarray) -> np.ndarray:
    return 0 * tokens


WORTHS = {
    "proportional": lambda tokens: tokens / 200,
    "logarithmic": np.log,
    "root": lambda tokens: np.sqrt(tokens / 50),
    "saturating": lambda tokens: 3 * (1 - np.exp(-tokens / 200)),
}


@pytest.mark.parametrize(
    ("gain", "noise", "verdict"),
    [
        (0.5, 1.0, Verdict.SHIP),
        (0.17, 1.0, Verdict.SHIP),  # the one-sided bound: 0.17 - 1.66 * 0.1
        (0.16, 1.0, Verdict.UNDERPOWERED),
        (-0.05, 1.0, Verdict.UNDERPOWERED),
        (-0.07, 1.0, Verdict.NO_GAIN),  # below a tenth of theta1's standard deviation, 0.1005
        (-0.5, 1.0, Verdict.NO_GAIN),
        (0.05, 0.01, Verdict.NO_GAIN),  # a gain, but none that matters
        (0.0, 0.0, Verdict.NO_GAIN),
    ],
)
def test_the_reward_alone(gain, noise, verdict):
    assert decide(0.5, *two(gain, noise)).verdict is verdict


def test_the_verdicts_come_in_order():
    """Each choice has everything against it that comes after its verdict, too."""
    choice, theta1 = two(0.5, second=0.0)
    choice = Confirmed(choice.rewards, [2.0 * n * n for n in choice.tokens], choice.second)  # all of it is length
    assert decide(1, choice, theta1).verdict is Verdict.SCORERS_DISAGREE
    assert decide(1, choice, theta1, min_gain=0.7).verdict is Verdict.NO_GAIN
    assert decide(1, choice, theta1, looks=40).verdict is Verdict.UNDERPOWERED
    assert decide(1, choice, theta1, min_gain=0.7, objection="loops").verdict is Verdict.COLLAPSE
    unopposed, agreeing = (Confirmed(side.rewards, side.tokens) for side in (choice, theta1))
    assert decide(1, unopposed, agreeing).verdict is Verdict.GAIN_IS_LENGTH
    assert decide(1, *two(0.5, second=0.5)).verdict is Verdict.SHIP


def test_theta1_itself():
    _, theta1 = two(0.0)
    decision = decide(0, theta1, theta1)
    assert (decision.verdict, decision.gain, decision.next) == (Verdict.NO_GAIN, None, "Keep theta1.")
    assert decision.tokens == decision.theta1_tokens == 99.5


def test_what_a_decision_holds():
    decision = decide(0.5, *two(0.5, second=0.4), min_gain=0.2, looks=1)
    assert (decision.error, decision.least_gain) == (0.025, 0.2)
    assert decision.gain.mean == pytest.approx(0.5) and decision.gain.low == pytest.approx(0.5 - 1.984217 * 0.1)
    assert decision.gain.confidence == 0.95 and decision.second["other"].mean == pytest.approx(0.4)
    assert decision.longer.mean == 0 and decision.at_equal_length == decision.gain == decision.length_matched
    assert (decision.objection, decision.gamed, decision.prompts_needed) == (None, False, None)


@pytest.mark.parametrize(("gain", "gamed"), [(0.5, True), (0.1, False), (-0.5, False)])
def test_a_collapse_is_gamed_where_the_reward_rose(gain, gamed):
    decision = decide(4, *two(gain), objection="openings")
    assert (decision.verdict, decision.objection, decision.gamed) == (Verdict.COLLAPSE, "openings", gamed)
    assert ("was gamed" in decision.next) is gamed and "smaller alpha" in decision.next


def test_few_prompts_ship_nothing():
    decision = decide(1, *two(5.0, n=FEWEST_PROMPTS - 1))
    assert decision.verdict is Verdict.UNDERPOWERED
    assert decision.next == "Add prompts with --extend: 19 to confirm on are too few, 20 are the least."
    few = decide(1, *two(0.1, n=19))
    assert few.prompts_needed > 100 and f"20 are the least; about {few.prompts_needed} would decide." in few.next
    assert decide(1, *two(-5.0, n=FEWEST_PROMPTS - 1)).verdict is Verdict.NO_GAIN
    assert decide(1, *two(5.0, n=FEWEST_PROMPTS)).verdict is Verdict.SHIP


def test_the_prompts_that_would_decide():
    """(z(1 - 0.025) + z(0.8)) / 0.1 squared is 785: towards a gain of 0.1, or where 0.1 is left to the least gain."""
    assert prompts_to_decide(interval(0.1 - 0.2, 0.1 + 0.2), 0.15, 0.025) == 785
    assert prompts_to_decide(interval(0.02 - 0.2, 0.02 + 0.2), 0.12, 0.025) == 785
    assert prompts_to_decide(interval(-0.2, 0.2), 0.0, 0.025) is None
    assert prompts_to_decide(interval(0.99, 1.01, n=8), 0.1, 0.025) == FEWEST_PROMPTS
    decision = decide(1, *two(0.1))
    assert decision.prompts_needed == 785
    assert "785 to confirm on, 685 more than now, would show a gain in four cases of five" in decision.next
    assert "would show that no gain matters" in decide(1, *two(0.0)).next


def test_as_many_prompts_as_asked_for_decide_in_four_cases_of_five():
    rng, gain, least = np.random.default_rng(3), 0.25, 0.1
    needed = prompts_to_decide(Interval(gain, 0.2, -0.1, 0.6, 25), least, error_at(1))
    looks = [
        decide(1, Confirmed((a + gain).tolist(), [9.0] * needed), Confirmed([0.0] * needed, [9.0] * needed), looks=1)
        for a in rng.normal(size=(150, needed))
    ]
    assert 0.72 * 150 <= sum(look.verdict is Verdict.SHIP for look in looks) <= 0.88 * 150


def test_a_useless_alpha_ships_rarely_over_all_looks():
    """Five looks, with 40 prompts more each time: at most twice the error of one look, and that one errs as it says."""
    rng, first, any_look, tries = np.random.default_rng(0), 0, 0, 400
    for _ in range(tries):
        choice, theta1 = rng.normal(size=(2, 200))
        shipped = [
            decide(1, *(Confirmed(side[:n].tolist(), [9.0] * n) for side in (choice, theta1)), looks=look).verdict
            is Verdict.SHIP
            for look, n in enumerate(range(40, 201, 40))
        ]
        first, any_look = first + shipped[0], any_look + any(shipped)
    assert 0.02 * tries <= first <= 0.08 * tries
    assert any_look <= 0.1 * tries


def test_a_good_alpha_ships_and_a_bad_one_never():
    assert Counter(longer(seed, 100, 0.5, 1.0, nothing).verdict for seed in range(100))[Verdict.SHIP] >= 95
    bad = Counter(longer(seed, 200, -0.3, 1.3, nothing).verdict for seed in range(100))
    assert bad[Verdict.NO_GAIN] >= 95 and not bad[Verdict.SHIP]


@pytest.mark.parametrize("worth", WORTHS)
def test_a_gain_that_is_length_is_found(worth):
    """Whatever the reward makes of length: the regression errs about as often as it says."""
    found = Counter(longer(seed, 150, 0.0, 1.6, WORTHS[worth]).verdict for seed in range(100))
    assert found[Verdict.SHIP] <= 9
    assert found[Verdict.GAIN_IS_LENGTH] >= 85


@pytest.mark.parametrize("worth", WORTHS)
def test_a_real_gain_that_comes_with_length_ships(worth):
    found = Counter(longer(seed, 150, 0.6, 1.4, WORTHS[worth]).verdict for seed in range(50))
    assert found[Verdict.SHIP] >= 47


def test_lengths_that_are_all_but_one_cut_off_leave_the_gain_as_it_is():
    choice, theta1 = two(0.5)
    cut = [Confirmed(side.rewards, [64.0] * 100) for side in (choice, theta1)]
    assert decide(1, *cut).verdict is Verdict.SHIP
    cut[0] = Confirmed(choice.rewards, [32.0] + [64.0] * 99)
    assert decide(1, *cut).verdict is Verdict.SHIP


def test_gain_at_equal_length_by_hand():
    choice = Confirmed([3.0, 4.0, 1.0, 9.0], [100.0, 109.0, 91.0, 400.0])
    theta1 = Confirmed([1.0, 1.0, 0.0, 0.0], [100.0, 100.0, 100.0, 100.0])
    by_regression, matched = gain_at_equal_length(choice, theta1, 0.9)
    assert (matched.mean, matched.n) == (2.0, 3)
    assert by_regression.n == 4 and by_regression.mean == pytest.approx(2.0, abs=0.1)
    assert gain_at_equal_length(*two(0.5, n=2), 0.9)[0] is None
    apart = Confirmed([1.0] * 3, [0.0] * 3), Confirmed([0.0] * 3, [100.0] * 3)
    assert gain_at_equal_length(*apart, 0.9)[1] is None


def test_what_is_not_settled_is_said():
    """Twice as long throughout: the gain at equal length can hardly be known."""
    choice, theta1 = two(0.5)
    double = Confirmed(choice.rewards, [2 * tokens + n % 3 for n, tokens in enumerate(choice.tokens)])
    decision = decide(1, double, theta1)
    assert decision.verdict is Verdict.GAIN_IS_LENGTH and decision.length_matched is None
    assert "more prompts (--extend) would tell" in decision.next
    assert not math.isnan(decision.at_equal_length.se)


def test_next_names_the_scorer_that_disagrees_and_asks_for_one():
    assert "other shows no gain" in decide(1, *two(0.5, second=0.0)).next
    assert "A second scorer would show" in decide(1, *two(0.5)).next
    assert decide(1, *two(0.5, second=0.5)).next == "Use the model."
