import math
import random

import pytest

from llm_expo.errors import StudyError
from llm_expo.search.budget import Budget
from llm_expo.search.choice import choose
from llm_expo.search.race import ALPHAS, BUDGET_PER_PROMPT, Race
from llm_expo.search.rounds import Round, Seen, Spent
from llm_expo.search.sweeps import Grid
from llm_expo.testing import play

PROMPTS = tuple(map(str, range(96)))


def rewards(height, seed=0, noise=0.7):
    """A prompt's level is the same at every alpha, the noise is not."""

    def reward(alpha, prompt):
        level = random.Random(f"{seed} {prompt}").gauss(0, 1)
        return height(alpha) + level + random.Random(f"{seed} {prompt} {alpha!r}").gauss(0, noise)

    return reward


def cliff(at, gain=1.0):
    def height(alpha):
        u = alpha / at
        return gain * u * math.exp(1 - max(u, 0)) - 2 / (1 + math.exp(-20 * (u - 2)))

    return height


def walked(strategy, reward, **options):
    """The rounds, and what was seen after them."""
    rounds = []

    def noting(seen):
        if (wanted := strategy(seen)) is not None:
            rounds.append(wanted)
        return wanted

    return rounds, play(noting, PROMPTS, reward, **options)


def test_the_ladder_begins_at_theta1_and_one_step_below():
    assert Race()(Seen(PROMPTS)) == Round(dict.fromkeys((0.0, -0.5, 0.05, 0.2), 12), "the ladder", later=192 - 48)
    assert Race(alphas=(1.0, 2.0, 3.9, 4.0, 32.0))(Seen(PROMPTS[:20])).wanted == dict.fromkeys((0.0, 1.0, 4.0), 4)


def test_the_ladder_climbs_to_the_end_where_all_is_well():
    rounds, _ = walked(Race(), rewards(lambda alpha: math.log1p(max(alpha, 0))))
    assert [list(each.wanted) for each in rounds[:3]] == [[0.0, -0.5, 0.05, 0.2], [1.0, 5.0], [20.0]]


@pytest.mark.parametrize("symptom", [True, False])
def test_the_ladder_ends_at_a_collapse_or_a_clear_loss(symptom):
    """From 1 on; nothing at or above it is asked again."""

    def height(alpha):
        return alpha if symptom or alpha < 1 else alpha - 12

    def collapse(alpha, _count):
        return "fragments" if alpha >= 1 and symptom else None

    rounds, seen = walked(Race(alphas=(0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)), rewards(height), collapse=collapse)
    assert [list(each.wanted) for each in rounds[:2]] == [[0.0, 0.05, 0.2], [1.0, 5.0]]
    assert all(max(each.wanted) < 1 for each in rounds[2:])
    assert 0 < choose(seen) < 1


@pytest.mark.parametrize("at", [0.1, 0.7, 2.0, 10.0])
def test_it_ends_near_the_peak(at):
    height = cliff(at)
    choices = [choose(play(Race(), PROMPTS, rewards(height, seed))) for seed in range(5)]
    assert sum(map(height, choices)) / 5 > 0.9 * height(at)


def test_it_finds_what_lies_below_zero():
    seen = play(Race(), PROMPTS, rewards(lambda alpha: -4 * abs(alpha + 0.4)))
    assert choose(seen) in (-0.5, -0.25)


def test_it_never_spends_more_than_the_budget():
    for amount in (84, 85, 100, 133, 192, 300):
        for seed in range(3):
            seen = play(Race(Budget(amount)), PROMPTS, rewards(cliff(2.0, 0.3), seed))
            assert 0.8 * amount < sum(seen.spent.completions.values()) <= amount
    default = play(Race(), PROMPTS, rewards(lambda alpha: 0.0))
    assert sum(default.spent.completions.values()) <= BUDGET_PER_PROMPT * len(PROMPTS)


def test_it_ends_early_where_nothing_is_left_to_win():
    seen = play(Race(Budget(5000)), PROMPTS, rewards(cliff(2.0), noise=0.1))
    assert sum(seen.spent.completions.values()) < 2 * len(PROMPTS)


def test_it_does_not_end_before_the_guard_can_tell():
    """A reward that is gamed wins on the first few prompts; the guard needs more of them to object."""

    def collapse(alpha, count):
        return "one opening for all" if alpha >= 2 and count > 20 else None

    alphas = (0.5, 1.0, 2.0, 4.0)
    rounds, seen = walked(Race(alphas=alphas), rewards(lambda alpha: 10 * alpha, noise=0.1), collapse=collapse)
    assert ({0.0: 32, 4.0: 32}, "4 leads, but on few prompts so far") in [(each.wanted, each.why) for each in rounds]
    assert seen.collapsed.keys() == {2.0, 4.0}
    assert choose(seen) == 1.0


def test_all_alphas_answer_the_first_prompts():
    rounds, seen = walked(Race(), rewards(cliff(1.0)))
    for alpha, mine in seen.rewards.items():
        assert list(mine) == list(PROMPTS[: len(mine)])
        assert alpha in (0.0, *ALPHAS)
    assert all(each.why for each in rounds)


def test_it_is_a_function_of_what_was_seen():
    """In whatever order it comes; so a walk that is begun again asks for the same."""
    reward = rewards(cliff(1.0))
    rounds, seen = walked(Race(), reward)
    assert walked(Race(), reward) == (rounds, seen)
    turned = Seen(PROMPTS, dict(reversed(seen.rewards.items())), {}, Spent({}))
    assert Race()(turned) == Race()(Seen(PROMPTS, seen.rewards, {}, Spent({})))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17])
def test_few_prompts(n):
    seen = play(Race(), PROMPTS[:n], rewards(cliff(1.0)))
    assert choose(seen) in (0.0, *ALPHAS)


def test_replies_that_are_all_alike():
    """As where an alpha is too small for the weights' precision, or a scorer gives one mark to all."""
    assert choose(play(Race(), PROMPTS, lambda alpha, prompt: 1.0)) == 0.0


def test_tokens_go_where_they_are_few():
    """Two peaks of equal height; the replies of the second are ten times as long."""

    def height(alpha):
        return max(math.exp(-(math.log(max(alpha, 1e-3) / at) ** 2)) for at in (0.2, 5.0))

    def spent(completions, rounds):
        return Spent(completions, {alpha: n * (1000 if alpha > 1 else 100) for alpha, n in completions.items()})

    def share(budget, **options):
        late = every = 0
        for seed in range(5):
            completions = play(Race(budget), PROMPTS, rewards(height, seed), **options).spent.completions
            late += sum(count for alpha, count in completions.items() if alpha > 1)
            every += sum(completions.values())
        return late / every

    assert share(Budget(80_000, "tokens"), spent=spent) < 0.8 * share(Budget(200))


def test_minutes_make_a_visit_worth_its_move():
    """A reply takes a second; a visit is at least as many of them as seconds go into coming there."""
    seen = play(Race(Budget(140)), PROMPTS, rewards(cliff(2.0, 0.3)))
    completions = seen.spent.completions

    def fewest(move):
        seconds = {"generate": float(sum(completions.values())), "move": 10.0 * move}
        spent = Spent(completions, completions, seconds, moves=10, turns=5)
        wanted = Race(Budget(60, "minutes"))(Seen(PROMPTS, seen.rewards, {}, spent)).wanted
        return min(count - completions.get(alpha, 0) for alpha, count in wanted.items())

    assert fewest(0.0) < 30 <= fewest(30.0)


def test_a_budget_that_the_ladder_exceeds():
    with pytest.raises(
        StudyError, match=r"budget is 50 completions; race begins with 12 prompts .* 6 other alphas, 84"
    ):
        Race(Budget(50))(Seen(PROMPTS))


def test_a_budget_that_turns_out_too_small_says_how_much_would_do():
    """By what the first replies took: 48 of them a hundred tokens each, and as many minutes as a move takes."""
    first = play(lambda seen: None if seen.rewards else Race()(seen), PROMPTS, rewards(cliff(2.0)))
    counts = first.spent.completions

    def after(spent, budget):
        return Race(budget)(Seen(PROMPTS, first.rewards, {}, spent))

    tokens = Spent(counts, {alpha: 100 * n for alpha, n in counts.items()})
    told = (
        "the budget of 5000 tokens ends before the race has begun: 4,800 are spent, and the ladder up to 20 would take "
        "about 8,400; what was made is kept: go on with --budget '16800 tokens' or more"
    )
    with pytest.raises(StudyError) as refused:
        after(tokens, Budget(5000, "tokens"))
    assert str(refused.value) == told
    assert after(tokens, Budget(16800, "tokens")).wanted == {1.0: 12, 5.0: 12}
    seconds = Spent(counts, tokens.tokens, {"generate": 480.0, "move": 240.0}, moves=4, turns=1)
    with pytest.raises(StudyError, match="of 13 minutes ends .*: 12 are spent, .* about 21; .* '42 minutes' or more"):
        after(seconds, Budget(13, "minutes"))


@pytest.mark.parametrize("alphas", [(), (1.0, math.inf), (math.nan, 1.0), (0.1, 1e6), (0.2, 0.2)])
def test_impossible_alphas(alphas):
    for strategy in (Race, Grid):
        with pytest.raises(StudyError, match="each has to lie within 1000 of theta1, and to be there once"):
            strategy(alphas=alphas)


def test_a_race_goes_upward():
    with pytest.raises(StudyError, match="alphas are -0.5; race needs at least one above 0"):
        Race(alphas=(-0.5,))


def test_theta1_leads_where_nothing_does():
    seen = play(Race(), [str(each) for each in range(40)], lambda alpha, prompt: float(prompt))
    assert all(count == 5 for alpha, count in seen.spent.completions.items() if alpha < 0)
