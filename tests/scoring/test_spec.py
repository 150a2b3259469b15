"""What stands after `--scorer`, one or several."""

import sys

import pytest
from chat_server import Chat, ChatServer

from llm_expo.errors import MissingExtraError, ScorerError
from llm_expo.scoring import Comparer, rewards, scorer_from, scorers_from
from llm_expo.scoring.spec import _model_and_url


@pytest.fixture
def server():
    server = ChatServer(Chat())
    yield server
    server.close()


def test_the_first_chooses_and_the_others_check(server, tmp_path, monkeypatch):
    (tmp_path / "my_lengths.py").write_text("def score(c):\n    return [len(m[-1]['content']) for m in c]\n")
    (tmp_path / "s.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    specs = ["function:my_lengths:score", f"judge:org/m@main@{server.url}", "file:s.jsonl"]
    scorers = scorers_from(specs, scorer_from, answers=tmp_path / "study" / "answers.sqlite")
    assert [each.name for each in scorers] == [specs[0], "judge:org/m@main (prompt 1)", specs[2]]
    assert [isinstance(each, Comparer) for each in scorers] == [False, True, False]
    said = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "four"}]]
    (tmp_path / "study").mkdir()
    assert [rewards(each, said, ["x"]) for each in scorers[:2]] == [[4.0], [0.5]]
    with pytest.raises(ValueError, match="compares: it needs baselines"):
        rewards(scorers[1], said)


def test_one_scorer_is_not_two(tmp_path):
    with pytest.raises(ScorerError, match="function:math:fsum is given 2 times; a second scorer has to be another one"):
        scorers_from(["function:math:fsum", "function:math:fsum"], scorer_from, answers=tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gpt-5", ("gpt-5", None)),
        ("org/m@v2", ("org/m@v2", None)),
        ("m@http://h:1/v1", ("m", "http://h:1/v1")),
        ("m@v2@https://u:p@h/v1", ("m@v2", "https://u:p@h/v1")),
        ("@http://h/v1", ("", "http://h/v1")),
    ],
)
def test_a_model_and_its_address(text, parts):
    assert _model_and_url(text) == parts


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("judge:", "'' names no model; write MODEL, or MODEL@http://HOST:PORT/v1"),
        ("judge:@http://h/v1", "names no model"),
        ("judge", "'judge' is no scorer"),
        ("judge:m@http://127.0.0.1:9/v1", "m at http://127.0.0.1:9/v1/: cannot be reached"),
        ("file:", "is no scorer; write reward-model:PATH_OR_ID, .* file:SCORES.jsonl or judge:MODEL@URL"),
    ],
)
def test_specs_that_are_none(tmp_path, spec, words):
    with pytest.raises(ScorerError, match=words):
        scorers_from([spec], scorer_from, answers=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_judge_is_for_several_only():
    with pytest.raises(ScorerError, match="'judge:m' is no scorer"):
        scorer_from("judge:m")


def test_without_the_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(
        MissingExtraError, match=r"openai is not installed; it comes with: pip install 'llm-expo\[judge\]'"
    ):
        scorers_from(["judge:m"], scorer_from, answers=tmp_path / "a")
