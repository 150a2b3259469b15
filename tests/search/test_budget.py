import pytest

from llm_expo.errors import StudyError
from llm_expo.search.budget import Budget, cost, left, price
from llm_expo.search.rounds import Spent

SPENT = Spent(
    completions={0.0: 10, 8.0: 10},
    tokens={0.0: 1000, 8.0: 3000},
    seconds={"generate": 400.0, "score": 20.0, "move": 90.0, "turn": 60.0},
    moves=3,
    turns=2,
)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500", Budget(500, "completions")),
        ("500 completions", Budget(500, "completions")),
        ("2e5 tokens", Budget(200_000, "tokens")),
        (" 45  minutes ", Budget(45, "minutes")),
    ],
)
def test_parse(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "minutes", "5 hours", "five tokens", "5 5"])
def test_what_is_no_budget(text):
    with pytest.raises(StudyError, match="has to be a number and one of completions, tokens, minutes, as in"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["0", "-1 tokens", "nan", "inf minutes"])
def test_a_budget_is_above_nothing(text):
    with pytest.raises(StudyError, match="has to be above 0"):
        Budget.parse(text)


def test_left():
    assert left(Budget(25), SPENT) == 5
    assert left(Budget(5000, "tokens"), SPENT) == 1000
    assert left(Budget(10, "minutes"), SPENT) == pytest.approx(10 - 570 / 60)


def test_price_by_hand():
    """A reply takes 100 tokens at 0 and 300 at 8; a token 0.1 seconds, a score 1, a move 30, a turn 30."""
    assert price("completions", SPENT, 8.0) == 1
    assert price("tokens", SPENT, 8.0) == 300
    assert price("tokens", SPENT, 0.5) == 100
    assert price("minutes", SPENT, 5.0) == pytest.approx(31 / 60)
    assert price("tokens", Spent(), 1.0) == price("minutes", Spent(), 1.0) == 0


def test_cost_by_hand():
    more = {0.0: 4, 8.0: 2, 16.0: 0}
    assert cost("completions", SPENT, more) == 6
    assert cost("tokens", SPENT, more) == 1000
    assert cost("minutes", SPENT, more) == pytest.approx((4 * 11 + 2 * 31 + 2 * 30 + 30) / 60)
    assert cost("minutes", SPENT, {0.0: 0}) == 0
