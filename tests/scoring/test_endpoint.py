"""An endpoint end to end: the `openai` client itself against a server on loopback."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import Chat, ChatServer

from llm_expo.errors import ScorerError
from llm_expo.scoring.answers import Answer, Question, Token
from llm_expo.scoring.endpoint import Bill, Endpoint, Refusal

AT_ONCE_AGAIN = {"retry-after-ms": "1"}
CLIENT = """
import sys
from pathlib import Path
from llm_expo.scoring.answers import Question
from llm_expo.scoring.endpoint import Endpoint
endpoint = Endpoint("m", Path(sys.argv[2]), url=sys.argv[1], at_once=2)
endpoint.ask("me", [Question((("user", f"question {i}"),), 4) for i in range(12)])
"""


@pytest.fixture(autouse=True)
def no_settings_of_our_own(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer(Chat(answer=str.upper))
    yield server
    server.close()


@pytest.fixture
def endpoint(server, tmp_path):
    """endpoint(**options) -> an Endpoint at the server."""
    return lambda **options: Endpoint("m", tmp_path / "a.sqlite", **{"url": server.url, "retries": 4, **options})


def questions(*texts, **options):
    return [Question((("system", "Be brief."), ("user", text)), 4, **options) for text in texts]


def texts(answers):
    return [answer.text for answer in answers]


def test_answers_come_in_order_and_no_question_is_asked_twice(server, endpoint):
    asked = questions(*[f"q{i % 30}" for i in range(40)])
    assert texts(endpoint().ask("me", asked)) == [f"Q{i % 30}" for i in range(40)]
    assert sorted(server.chat.asked()) == sorted(f"q{i}" for i in range(30))
    request = next(each for each in server.chat.requests if each["messages"][1]["content"] == "q0")
    assert request == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q0"}],
        "max_tokens": 4,
        "temperature": 0.0,
    }
    server.close()
    assert texts(endpoint().ask("me", asked[:5])) == ["Q0", "Q1", "Q2", "Q3", "Q4"]


def test_what_is_another_question_or_another_asker_is_asked(server, endpoint):
    here = endpoint()
    for asker, options in (("me", {}), ("me", {"temperature": 1.0}), ("me", {"alternatives": 5}), ("you", {})):
        here.ask(asker, questions("q", **options))
    assert len(server.chat.requests) == 4
    assert [len(here.kept(asker)) for asker in ("me", "you", "nobody")] == [3, 1, 0]


def test_log_probabilities_come_with_the_answer_and_are_kept(server, endpoint):
    server.chat.likeliest = lambda text: {"Q": 0.5, "R": 0.25}
    first = endpoint().ask("me", questions("q", alternatives=5))
    assert server.chat.requests[0]["logprobs"] is True and server.chat.requests[0]["top_logprobs"] == 5
    [answer] = endpoint().ask("me", questions("q", alternatives=5))
    assert [answer] == first
    assert answer == Answer("Q", (Token("Q", (("Q", math.log(0.5)), ("R", math.log(0.25)))),), 1, 1)
    assert len(server.chat.requests) == 1


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        (("logprobs",), {"max_tokens", "temperature"}),
        (("temperature",), {"max_completion_tokens"}),
        (("logprobs", "max_tokens"), {"max_completion_tokens"}),
    ],
)
def test_what_an_endpoint_does_not_take_is_left_out(server, endpoint, refused, left):
    server.chat.refused = refused
    here = endpoint(at_once=1)
    assert texts(here.ask("me", questions("a", "b", "c", alternatives=5))) == ["A", "B", "C"]
    assert {*server.chat.requests[0]} == {"model", "messages", *left}
    assert server.chat.tries == 3 + (1 if "max_tokens" in left else 2)  # it is found out once


def test_limits_faults_and_lost_connections_are_tried_again(server, endpoint):
    server.chat.failures = [(429, AT_ONCE_AGAIN), (500, AT_ONCE_AGAIN), (503, AT_ONCE_AGAIN)]
    assert texts(endpoint(at_once=1).ask("me", questions("a"))) == ["A"]
    server.chat.cuts = 1
    assert texts(endpoint(at_once=1).ask("me", questions("b"))) == ["B"]
    assert server.chat.tries == 6


@pytest.mark.parametrize(
    ("wrong", "options", "words"),
    [
        ({"key": "right"}, {"key": "wrong"}, r"m at \S+/v1/: refuses the key: 'Incorrect API key provided.'; set "),
        ({"models": ("other",)}, {}, "does not know the model or the address: 'The model `m` does not exist.'"),
        ({"failures": [(429, AT_ONCE_AGAIN)] * 3}, {"retries": 2}, "rate limit, after 3 tries: 'try again'; run it"),
        ({"failures": [(502, {})]}, {"retries": 0}, "failed with status 502, at the first try: 'try again'"),
        ({"cuts": 1}, {"retries": 0}, "cannot be reached, at the first try: Server disconnected"),
        ({"hang_after": 0}, {"timeout": 0.2}, "did not answer a question within 0.2 s, asked twice; see "),
        ({"body": b"<html>Welcome!</html>"}, {}, "answered '<html>Welcome!</html>', which is no chat completion"),
        ({"body": b'{"choices": []}'}, {}, "which is no chat completion; is the address right"),
        ({"body": b'{"choices": [{"message": {"content": [1]}}]}'}, {}, "which is no chat completion"),
        ({"body": b"[]"}, {}, "which is no chat completion"),
        ({"refused": ("messages",)}, {}, "refuses all that it is asked: \"Unsupported parameter: 'messages'\""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(server, endpoint, wrong, options, words):
    for name, value in wrong.items():
        setattr(server.chat, name, value)
    with pytest.raises(ScorerError, match=words) as told:
        endpoint(at_once=1, **options).ask("me", questions("a"))
    assert "\n" not in str(told.value)


def test_a_question_without_an_answer_is_asked_once_more_and_the_first_is_told(server, endpoint, caplog):
    server.chat.hangs = 3
    asked = questions(*"abcdef")
    assert texts(endpoint(at_once=3, timeout=1).ask("me", asked)) == [*"ABCDEF"]
    assert server.chat.tries == 9
    [line] = caplog.messages
    assert line == (
        f"m at {server.url}/: no answer within 1 s; asking once more, a question that gets none then ends the run"
    )


def test_an_endpoint_that_is_stuck(server, endpoint, monkeypatch):
    server.chat.hang_after = 0
    with pytest.raises(ScorerError, match="a question within 0.2 s, asked twice; .*kept so far: 0; the same command"):
        endpoint(at_once=1, timeout=0.2, retries=8).ask("me", questions(*"abc"))
    assert server.chat.tries == 2
    monkeypatch.setattr("llm_expo.scoring.endpoint._LISTS_WITHIN", 0.2)
    with pytest.raises(ScorerError, match="does not even list its models within 0.2 s; is it stuck?"):
        endpoint(timeout=60).check("me")


def test_an_endpoint_that_is_down(server, endpoint):
    server.close()
    down = endpoint(retries=0)
    for do in (lambda: down.check("me"), lambda: down.ask("me", questions("a"))):
        with pytest.raises(ScorerError, match="cannot be reached, at the first try: .*Connection refused"):
            do()


def test_what_can_be_told_beforehand(monkeypatch, tmp_path):
    with pytest.raises(ScorerError, match="needs a key: set OPENAI_API_KEY, or name another address"):
        Endpoint("m", tmp_path / "a")
    with pytest.raises(ScorerError, match=r"'http://\[::1/v1' is no address"):
        Endpoint("m", tmp_path / "a", url="http://[::1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12\n34")
    with pytest.raises(ScorerError, match="holds characters that no key has") as told:
        Endpoint("m", tmp_path / "a")
    assert "sk-" not in str(told.value)


def test_the_check_is_free_and_for_those_who_have_no_answer_yet(server, endpoint):
    server.chat.key = "right"
    with pytest.raises(ScorerError, match="refuses the key"):
        endpoint(key="wrong").check("me")
    endpoint(key="right").check("me")
    assert not server.chat.requests
    endpoint(key="right").ask("me", questions("a"))
    server.close()
    endpoint(key="wrong").check("me")


def test_the_key_and_the_address_come_from_the_environment(server, tmp_path, monkeypatch):
    server.chat.key = "right"
    monkeypatch.setenv("OPENAI_API_KEY", "right\n")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert texts(Endpoint("m", tmp_path / "a.sqlite").ask("me", questions("a"))) == ["A"]


def test_a_single_question_may_be_refused(server, endpoint):
    server.chat.too_long = 10
    here = endpoint(at_once=1)
    answers = here.ask("me", questions("a", "far too long", "b"))
    told = Refusal('"This model\'s maximum context length is exceeded."')
    assert answers == [Answer("A", (), 1, 1), told, Answer("B", (), 1, 1)]
    assert server.chat.tries == 3
    assert endpoint().ask("me", questions("far too long", "b"))[1].text == "B"
    assert endpoint().ask("me", questions("far too long")) == [told]  # it has answered others


def test_a_failure_ends_it_and_what_was_answered_is_kept(server, endpoint):
    server.chat.hang_after = 3
    asked = questions(*"abcdefgh")
    with pytest.raises(ScorerError, match="did not answer .* Answers kept so far: 3; the same command goes on"):
        endpoint(at_once=1, timeout=1).ask("me", asked)
    assert server.chat.tries == 5  # none of the others was asked
    server.chat.hang_after = 100
    assert texts(endpoint().ask("me", asked)) == [*"ABCDEFGH"]
    assert sorted(server.chat.asked()) == [*"abcdefgh"]


def test_killed_it_pays_for_no_answer_twice(server, tmp_path):
    server.chat.hang_after = 7
    command = [sys.executable, "-c", CLIENT, server.url, str(tmp_path / "a.sqlite")]
    killed = subprocess.Popen(command)
    assert server.chat.hanging.wait(60)
    while rows(tmp_path / "a.sqlite") < 7:  # the last ones may still be on their way to the disk
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    server.chat.hang_after = 100
    subprocess.run(command, check=True)
    assert sorted(server.chat.asked()) == sorted(f"question {i}" for i in range(12))


def rows(path: Path) -> int:
    with sqlite3.connect(path, timeout=60) as database:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_an_interrupt_need_not_wait_for_an_endpoint_that_hangs(server, tmp_path):
    server.chat.hang_after = 0
    # Whoever was started in the background ignores it, and so would their children.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    interrupted = subprocess.Popen(
        [sys.executable, "-c", heeding + CLIENT, server.url, str(tmp_path / "a.sqlite")], stderr=subprocess.PIPE
    )
    assert server.chat.hanging.wait(60)
    interrupted.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in interrupted.communicate(timeout=60)[1]


def test_the_bill(server, endpoint):
    here = endpoint(prices=(2.0, 8.0))
    assert here.bill("me") == Bill(0, 0, 0, 0, 0.0)
    here.ask("me", questions("one", "one two three"))
    server.chat.usage = False
    here.ask("me", questions("more"))
    assert endpoint(prices=(2.0, 8.0)).bill("me") == Bill(3, 4, 2, 1, pytest.approx((4 * 2 + 2 * 8) / 1e6))
    assert endpoint().bill("me").price is None


def test_a_place_where_nothing_can_be_kept(server, tmp_path):
    (tmp_path / "a.sqlite").write_text("no database, but long enough to be one")
    with pytest.raises(ScorerError, match="a.sqlite: answers cannot be kept there: file is not a database"):
        Endpoint("m", tmp_path / "a.sqlite", url=server.url).ask("me", questions("a"))
    with pytest.raises(ScorerError, match="answers cannot be kept there: unable to open database file"):
        Endpoint("m", tmp_path / "no" / "a.sqlite", url=server.url).ask("me", questions("a"))
    assert not server.chat.requests
