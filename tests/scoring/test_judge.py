"""Judging: what an answer counts, and whole comparisons against a server on loopback."""

import math
import re

import pytest
from chat_server import Chat, ChatServer

from llm_expo.errors import ScorerError
from llm_expo.scoring import rewards
from llm_expo.scoring.answers import Answer, Token
from llm_expo.scoring.endpoint import Bill, Endpoint
from llm_expo.scoring.judge import JudgeScorer, Record, preference, which_is_better


@pytest.fixture
def server():
    server = ChatServer(Chat(answer=longer))
    yield server
    server.close()


@pytest.fixture
def judge(server, tmp_path):
    """judge() -> a judge at the server; another call is another run."""
    return lambda: JudgeScorer(Endpoint("m", tmp_path / "answers.sqlite", url=server.url, prices=(1.0, 1.0)))


def replies(text):
    return re.search(r"=== Reply A ===\n(.*)\n\n=== Reply B ===\n(.*)\n\n=== End ===", text, flags=re.DOTALL).groups()


def longer(text):
    a, b = map(len, replies(text))
    return "A" if a > b else "B" if b > a else "C"


def conversations(*texts):
    return [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}] for text in texts]


def places(*tokens):
    """Tokens of an answer from [(text, {alternative: probability})]."""
    return tuple(Token(text, tuple((each, math.log(p)) for each, p in likeliest.items())) for text, likeliest in tokens)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A", 1), ("B", 0), ("C", 0.5), (" B\n", 0), ("**A**", 1), ("[[B]]", 0), ("(C)", 0.5), ("A.", 1),
        ("A\n\nBecause", 1), ("Answer: B", 0), ("Reply A is better.", 1), ("The better reply is B", 0),
        ("My verdict: **C**", 0.5), ("A, clearly", 1),
        ("", None), ("A careful look", None), ("A's", None), ("a", None), ("D", None), ("Both", None),
        ("I cannot say", None), ("Alas", None), ("AB", None), ("Reply 1", None), ("<think>\nA", None),
        ("A: Paris.\nB: Rome.", None),
    ],
)  # fmt: skip
def test_verdicts_in_words(text, value):
    assert preference(Answer(text)) == value


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        ([("A", {"A": 0.6, "B": 0.2, "C": 0.1, "The": 0.1})], (0.6 + 0.05) / 0.9),
        ([("A", {"A": 0.6})], 1),  # the others are less likely than all that is shown
        ([("A", {"A": 0.3, " A": 0.2, " B": 0.25, "**": 0.2})], 0.5 / 0.75),
        ([("Reply", {"Reply": 0.9, "B": 0.1}), (" A", {" A": 0.75, " B": 0.25})], 0.75),
        ([("A", {})], 1),
        ([("Reply A", {"Reply A": 0.9, "B": 0.1})], 1),  # no token is the letter by itself
    ],
)
def test_verdicts_by_log_probabilities(tokens, value):
    assert preference(Answer("".join(text for text, _ in tokens), places(*tokens))) == pytest.approx(value)


def test_log_probabilities_of_what_is_no_verdict_count_nothing():
    assert preference(Answer("The", places(("The", {"The": 0.5, "A": 0.4, "B": 0.1})))) is None


def test_the_question_shows_the_conversation_and_both_replies():
    prompt = [
        {"role": "system", "content": "Be {kind}."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    [(role, text)] = which_is_better(prompt, "{a}", "").messages
    assert role == "user"
    assert "[system] Be {kind}.\n\n[user] Hi\n\n[assistant] Hello\n\n[user] Why?\n" in text
    assert replies(text) == ("{a}", "(empty)")


def test_the_preferred_reply_is_rewarded(judge, server):
    values = rewards(judge(), conversations("long reply", "x", "same", "four"), ["short", "longer", "same", "five"])
    assert values == [1.0, 0.0, 0.5, 0.5]
    assert len(server.chat.requests) == 6  # in both orders, and not where there is nothing to compare
    assert rewards(judge(), conversations("long reply", "new"), ["short", "old!"]) == [1.0, 0.0]
    assert len(server.chat.requests) == 8


def test_theta1_against_itself_asks_nobody(judge, server, tmp_path):
    server.close()
    assert rewards(judge(), conversations("a", "b"), ["a", "b"]) == [0.5, 0.5]
    assert not (tmp_path / "answers.sqlite").exists()
    with pytest.raises(ScorerError, match="cannot be reached"):
        judge().check()


def test_a_judge_that_goes_by_place_prefers_nothing(judge, server):
    server.chat.answer = lambda text: "A"
    one = judge()
    told = []
    assert one.compare(conversations("a", "b"), ["c", "d"], lambda *so_far: told.append(so_far)) == [0.5, 0.5]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert one.record() == Record(0, 0, 1.0, Bill(4, pytest.approx(400, rel=0.2), 4, 0, pytest.approx(4e-4, rel=0.2)))


def test_log_probabilities_weigh(judge, server):
    server.chat.likeliest = lambda text: {"A": 0.5, "B": 0.5} if longer(text) == "A" else {"B": 0.8, "A": 0.2}
    one = judge()
    assert one.compare(conversations("longer"), ["short"]) == [pytest.approx((0.5 + 0.8) / 2)]
    record = one.record()
    assert (record.weighted, record.none, record.first) == (2, 0, pytest.approx(0.35))


def test_what_is_no_verdict_counts_as_a_tie_and_is_told(judge, server, caplog):
    server.chat.answer = lambda text: "Hmm" if replies(text)[0] == "odd" else longer(text)
    texts = [f"reply {i}" for i in range(9)]
    assert judge().compare(conversations("odd", *texts), ["theta1"] * 10) == [0.5] + [1.0] * 9
    [line] = caplog.messages
    assert line == "judge:m (prompt 1): 1 of 20 answers hold no verdict, such as 'Hmm'; such pairs count as ties"
    assert judge().record().none == 1


def test_a_conversation_that_is_too_long_for_the_judge_counts_as_a_tie(judge, server, caplog):
    server.chat.too_long = 3000
    assert judge().compare(conversations("word " * 1000, *"abc"), ["long", *["theta1"] * 3]) == [0.5, 0, 0, 0]
    assert "2 of 8 answers hold no verdict, such as refused: \"This model's maximum context" in caplog.text


def test_what_is_no_judge_is_told_apart(judge, server):
    server.chat.answer = lambda text: "I am happy to help!"
    words = r"judge:m \(prompt 1\): 4 of 4 answers hold no verdict, such as 'I am happy to help!'; a judge"
    for _ in range(2):
        with pytest.raises(ScorerError, match=words):
            judge().compare(conversations("a", "b"), ["c", "d"])
    assert len(server.chat.requests) == 4  # what it said is kept, too
