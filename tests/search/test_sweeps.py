import json
import math

import pytest

from llm_expo.errors import StudyError
from llm_expo.search.rounds import Round, Seen, answered
from llm_expo.search.sweeps import PRESETS, Grid, Paper
from llm_expo.testing import play

PROMPTS = ("a", "b", "c")


def walk(strategy, reward):
    """The alphas that a strategy tries, on one prompt."""
    tried = list(play(strategy, ("only",), lambda alpha, _: reward(alpha)).rewards)
    assert tried[0] == 0
    return tried[1:]


def cliff(at):
    """One peak, a steeper fall behind it than before it."""
    return lambda alpha: -((alpha - at) ** 2) * (1 if alpha < at else 3)


def test_grid_is_the_papers_by_default():
    assert walk(Grid(), lambda alpha: alpha) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert walk(Grid((3.0, 0.0, -0.5)), lambda alpha: alpha) == [3.0, -0.5]


def test_paper_by_hand():
    assert walk(Paper((5.0, 1.0)), cliff(8)) == [5, 10, 8, 7, 9]
    assert walk(Paper((2.0, 1.0, 0.5)), cliff(2.5)) == [2, 4, 1, 3, 2.5]
    assert walk(Paper((0.1,)), cliff(0.3)) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("model", ["dpo_10pct", "dpo_20pct"])
def test_paper_takes_as_many_evaluations_as_the_paper(shared_data, model):
    known = json.loads((shared_data / "paper" / "tables.json").read_text())["appendix_b_search"][model]
    intervals = tuple(map(float, known["intervals"]))
    assert intervals in PRESETS.values()
    tried = walk(Paper(intervals), cliff(known["alpha"]))
    assert len(tried) == known["evaluations"]
    assert max(tried, key=cliff(known["alpha"])) == known["alpha"]


@pytest.mark.parametrize("intervals", [*PRESETS.values(), (4.0, 2.0, 1.0, 0.25)])
@pytest.mark.parametrize("at", [0.5, 1.0, 2.25, 3.0, 4.5, 8.0, 13.0])
def test_paper_ends_within_an_interval_of_a_single_peak(intervals, at):
    tried = walk(Paper(intervals), cliff(at))
    assert abs(max([0.0, *tried], key=cliff(at)) - at) <= intervals[-1]


def test_paper_ends_where_nothing_helps_and_where_everything_does():
    assert walk(Paper((5.0, 1.0)), lambda alpha: -alpha) == [5, 10, 3, 2, 1]
    assert max(walk(Paper((5.0, 1.0)), math.log1p)) >= 32


def test_paper_is_a_function_of_the_trials_alone():
    """In whatever order they come, and with trials that it did not ask for itself."""
    rewards = {alpha: {"only": cliff(8)(alpha)} for alpha in (10.0, 0.0, 5.0, 6.5)}
    turned = dict(reversed(rewards.items()))
    assert Paper((5.0, 1.0))(Seen(("only",), rewards)) == Paper((5.0, 1.0))(Seen(("only",), turned))


def test_every_alpha_answers_every_prompt_theta1_first():
    strategy = Grid((0.5, 2.0))
    assert strategy(Seen(PROMPTS)) == Round({0.0: 3}, "theta1 on all 3 prompts", later=6)
    half = {0.0: dict.fromkeys(PROMPTS, 1.0), 0.5: {"a": 1.0}}
    assert strategy(Seen(PROMPTS, half)) == Round({0.5: 3}, "alpha 0.5 on all 3 prompts", later=3)
    seen = play(strategy, PROMPTS, lambda alpha, _: alpha)
    assert seen.spent.completions == {0.0: 3, 0.5: 3, 2.0: 3}
    assert strategy(seen) is None


def test_a_collapsed_alpha_is_the_worst():
    """Its rewards rise all the way, but the paper's procedure turns back."""

    def collapse(alpha, count):
        return "fragments" if alpha > 2.5 else None

    seen = play(Paper((2.0, 1.0)), PROMPTS, lambda alpha, _: alpha, collapse=collapse)
    assert list(seen.spent.completions) == [0.0, 2.0, 4.0, 1.0, 3.0]
    assert max(answered(seen)) == 2.0


def test_a_study_records_what_a_strategy_is():
    assert repr(Grid((1.0,))) == "Grid(alphas=(1.0,))"
    assert repr(Paper()) == "Paper(intervals=(2.0, 1.0, 0.5))"


@pytest.mark.parametrize("intervals", [(), (1.0, 2.0), (1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (float("nan"),), (1e308,)])
def test_impossible_intervals(intervals):
    with pytest.raises(StudyError, match="have to fall from wide"):
        Paper(intervals)


@pytest.mark.parametrize("alphas", [(), (0.1, float("nan")), (float("inf"),), (1e39,)])
def test_impossible_alphas(alphas):
    with pytest.raises(StudyError, match="alpha"):
        Grid(alphas)
