import math
import random
import statistics

import pytest

from llm_expo.search.choice import choose
from llm_expo.search.rounds import Seen

PROMPTS = tuple(map(str, range(64)))


def seen(height, alphas=(0.0, 0.5, 1.0, 2.0, 4.0), collapsed=(), noise=0.3, seed=0):
    drawn = random.Random(seed)
    levels = [drawn.gauss(0, 1) for _ in PROMPTS]
    rewards = {
        alpha: {p: height(alpha) + level + drawn.gauss(0, noise) for p, level in zip(PROMPTS, levels, strict=True)}
        for alpha in alphas
    }
    return Seen(PROMPTS, rewards, dict.fromkeys(collapsed, "fragments"))


def rising(alpha):
    return alpha / 4


def saturating(alpha):
    return min(alpha, 1) + 0.01 * alpha


@pytest.mark.parametrize(("rule", "choice"), [("best", 4.0), ("one-se", 4.0)])
def test_a_clear_best(rule, choice):
    assert choose(seen(rising), rule) == choice


def test_one_se_is_the_smallest_that_is_as_good():
    """Beyond 1 there is next to nothing to win."""
    studies = [seen(saturating, seed=seed) for seed in range(20)]
    cautious = [choose(each, "one-se") for each in studies]
    assert set(cautious) <= {1.0, 2.0, 4.0}
    assert cautious.count(1.0) > 10 > [choose(each, "best") for each in studies].count(1.0)


def test_fluent_is_the_best_of_those_and_of_theta1():
    assert choose(seen(rising), "fluent", {0.5, 1.0}) == 1.0
    assert choose(seen(rising), "fluent") == 0.0
    assert choose(seen(lambda alpha: -alpha), "fluent", {0.5, 1.0}) == 0.0


def test_what_collapsed_is_no_choice():
    assert choose(seen(rising, collapsed=(4.0,))) == 2.0


def test_luck_on_few_prompts_does_not_win():
    """4 has the highest mean, on four prompts, between neighbours that are known to be worse."""
    alphas = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    study = seen(lambda alpha: -0.3 * abs(math.log2(alpha or 0.1)), alphas, noise=1.0)
    best, lucky = (list(study.rewards[alpha].items())[:4] for alpha in (1.0, 4.0))
    lift = 0.1 + statistics.fmean(mine - its for (_, mine), (_, its) in zip(best, lucky, strict=True))
    few = {4.0: {prompt: reward + lift for prompt, reward in lucky}}
    assert choose(Seen(PROMPTS, dict(study.rewards) | few)) == 1.0
