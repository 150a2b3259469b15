import pytest

from llm_expo.errors import ScorerError
from llm_expo.scoring import FunctionScorer, rewards, scorer_from

CONVERSATIONS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "four"}],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "sixsix"}],
]


def length(conversations):
    return [len(conversation[-1]["content"]) for conversation in conversations]


def test_a_function_scores_conversations():
    scorer = FunctionScorer(length)
    assert rewards(scorer, CONVERSATIONS) == [4.0, 6.0]
    assert scorer.name.startswith("function:") and scorer.name.endswith(":length")


def test_functions_are_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def by_length(c):\n    return [len(m[-1]['content']) for m in c]\n")
    monkeypatch.chdir(tmp_path)
    scorer = scorer_from("function:my_rewards:by_length")
    assert scorer.name == "function:my_rewards:by_length"
    assert scorer.score(CONVERSATIONS) == [4.0, 6.0]


def test_what_a_function_raises_is_told_in_one_line_with_its_place():
    def broken(conversations):
        return [1 / len(conversations[5:])]

    with pytest.raises(ScorerError, match=r"ZeroDivisionError: division by zero \(.*test_function.py, line \d+\)"):
        FunctionScorer(broken).score(CONVERSATIONS)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0], "returned 1 rewards for 2"),
        ([1.0, float("nan")], "returned nan for the reply 'sixsix'"),
        ([float("inf"), 0], "returned inf for the reply 'four'"),
        ([1e38, 0], r"returned 1e\+38"),
        (["a", "b"], "returned a list, not a sequence of numbers"),
        ("11", "returned a str"),
        ({1: 2, 3: 4}, "returned a dict"),
        (None, "TypeError"),
    ],
)
def test_what_is_not_a_reward_is_refused(answer, words):
    with pytest.raises(ScorerError, match=words):
        rewards(FunctionScorer(lambda conversations: answer, "f"), CONVERSATIONS)


def test_a_function_that_exits_is_an_error():
    with pytest.raises(ScorerError, match="SystemExit"):
        FunctionScorer(lambda conversations: exit(0), "f").score(CONVERSATIONS)


def test_a_module_that_fails_is_told_apart_from_a_missing_function(tmp_path, monkeypatch):
    (tmp_path / "failing_rewards.py").write_text("import math\nmath.no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScorerError, match="cannot be imported: AttributeError: module 'math' has no attribute"):
        scorer_from("function:failing_rewards:score")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "is no scorer; write reward-model:PATH_OR_ID, function:package.module:name, file:"),
        ("reward-model:", "is no scorer"),
        ("function:json", "write function:package.module:name"),
        ("function::name", "write function:package.module:name"),
        ("function:no_such_module_here:f", "cannot be imported: ModuleNotFoundError"),
        ("function:json:no_such_function", "the module json has no no_such_function"),
        ("function:json:__name__", "is not a function"),
    ],
)
def test_specs_that_are_none(spec, words):
    with pytest.raises(ScorerError, match=words):
        scorer_from(spec)
