from llm_expo.search.rounds import Round, Seen, answered
from llm_expo.search.strategies import Grid, OneAtATime, Paper
from llm_expo.testing import play

PROMPTS = ("a", "b", "c")


def test_answered_are_the_first_prompts_without_a_gap():
    rewards = {1.0: {"c": 3.0, "a": 1.0}, 0.0: {"b": 2.0, "a": 1.0}, 2.0: {"b": 1.0}, 4.0: dict.fromkeys(PROMPTS, 1.0)}
    assert answered(Seen(PROMPTS, rewards, {4.0: "gibberish"})) == {0.0: [1.0, 2.0], 1.0: [1.0]}


def test_one_at_a_time_begins_with_theta1_and_has_every_prompt_answered():
    strategy = OneAtATime(Grid((0.5, 2.0)))
    assert strategy(Seen(PROMPTS)) == Round({0.0: 3}, "theta1 on all 3 prompts")
    half = {0.0: dict.fromkeys(PROMPTS, 1.0), 0.5: {"a": 1.0}}
    assert strategy(Seen(PROMPTS, half)) == Round({0.5: 3}, "alpha 0.5 on all 3 prompts")
    seen = play(strategy, PROMPTS, lambda alpha, _: alpha)
    assert seen.spent.completions == {0.0: 3, 0.5: 3, 2.0: 3}
    assert strategy(seen) is None


def test_a_collapsed_alpha_is_the_worst():
    """Its rewards rise all the way, but the paper's procedure turns back."""
    strategy = OneAtATime(Paper((2.0, 1.0)))
    seen = play(strategy, PROMPTS, lambda alpha, _: alpha, collapse=lambda alpha: "fragments" if alpha > 3 else None)
    assert list(seen.spent.completions) == [0.0, 2.0, 4.0, 1.0, 3.0]
    assert max(answered(seen)) == 3.0


def test_a_strategy_tells_what_it_is():
    assert repr(OneAtATime(Grid((1.0,)))) == "OneAtATime(pick=Grid(alphas=(1.0,)))"
