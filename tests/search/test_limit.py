"""The best choice that is not too dear."""

import random

import pytest

from llm_expo.search.limit import Limit, choose_within
from llm_expo.search.rounds import Seen
from llm_expo.stats import Interval

PROMPTS = tuple(map(str, range(40)))
ALPHAS = (0.0, 0.5, 1.0, 2.0, 4.0)


def seen() -> Seen:
    """The reward rises with alpha."""
    drawn = random.Random(0)
    rewards = {alpha: {prompt: alpha / 4 + drawn.gauss(0, 0.1) for prompt in PROMPTS} for alpha in ALPHAS}
    return Seen(PROMPTS, rewards, {})


def limit(most: float, asked: list[float]) -> Limit:
    """A point is lost for each unit of alpha, give or take half a point."""

    def price(alpha: float) -> Interval:
        asked.append(alpha)
        return Interval(alpha, 0.3, alpha - 0.5, alpha + 0.5, 100, 0.9)

    return Limit("points", most, price)


@pytest.mark.parametrize(
    ("most", "choice", "asked"),
    [(9.0, 4.0, [4.0]), (4.4, 2.0, [4.0, 2.0]), (1.5, 1.0, [4.0, 2.0, 1.0]), (0.1, 0.0, [4.0, 2.0, 1.0, 0.5])],
)
def test_the_best_whose_upper_bound_is_within(most, choice, asked):
    calls: list[float] = []
    chosen, priced = choose_within(seen(), "best", (), limit(most, calls))
    assert chosen == choice
    assert calls == [each.alpha for each in priced] == asked
    assert [each.within for each in priced] == [alpha + 0.5 <= most for alpha in asked]


def test_nothing_to_gain_costs_nothing():
    calls: list[float] = []
    flat = Seen(PROMPTS, {alpha: dict.fromkeys(PROMPTS, -alpha) for alpha in ALPHAS}, {})
    assert choose_within(flat, "best", (), limit(1.0, calls)) == (0.0, ())
    assert calls == []


def test_fluent_is_held_to_the_limit_too():
    chosen, priced = choose_within(seen(), "fluent", {1.0, 2.0}, limit(1.6, []))
    assert chosen == 1.0 and [each.alpha for each in priced] == [2.0, 1.0]
