"""A server that is not ours: `transformers serve` with SmolLM2 on loopback. It gives no log-probabilities."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import transformers_serve

from llm_expo.demo.pair import write_theta0
from llm_expo.errors import ScorerError
from llm_expo.scoring import rewards, scorer_from, scorers_from
from llm_expo.scoring.answers import Question
from llm_expo.scoring.endpoint import Endpoint

pytestmark = pytest.mark.slow

HAIKU = "Rain falls on the roof / soft drums in the dark of night / morning smells of earth"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "smollm2"
    write_theta0(folder)
    return folder


@pytest.fixture
def served(model, tmp_path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with transformers_serve(model, tmp_path / "serve.log") as server:
        yield server


def said(prompt: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def test_a_real_model_answers_is_told_to_be_no_judge_and_is_not_asked_twice(served, model, tmp_path):
    url, server = served
    endpoint = Endpoint(str(model), tmp_path / "answers.sqlite", url=url, at_once=2)
    endpoint.check("test")
    asked = [Question((("user", f"What is {word}?"),), 8, alternatives=5) for word in ("rain", "wood", "salt")]
    answers = endpoint.ask("test", asked)
    assert all(answer.text and answer.tokens_in > 10 and 0 < answer.tokens_out <= 8 for answer in answers)
    assert [answer.tokens for answer in answers] == [(), (), ()]
    assert len({answer.text for answer in answers}) == 3

    # 135M parameters are too few for a judge: it takes whatever is shown first, or repeats what it was told.
    [judge] = scorers_from([f"judge:{model}@{url}"], scorer_from, answers=tmp_path / "answers.sqlite")
    paris, rain = said("What is the capital of France?", "Paris."), said("Write a haiku about rain.", HAIKU)
    assert rewards(judge, [paris, rain], ["I like bananas.", "No."]) == [0.5, 0.5]
    assert (judge.record().first, judge.record().weighted, judge.record().none) == (1.0, 0, 0)
    two, egg = said("What is 2+2?", "5"), said("How do I boil an egg?", "Put it in boiling water for 8 minutes.")
    with pytest.raises(ScorerError, match="4 of 8 answers hold no verdict, such as '"):
        rewards(judge, [two, egg], ["4", "Eggs are laid by hens."])

    with pytest.raises(ScorerError, match="refuses all that it is asked: .*Server is pinned to"):
        Endpoint("another", tmp_path / "answers.sqlite", url=url).ask("other", asked)
    with pytest.raises(ScorerError, match="does not know the model or the address: 'Not Found'"):
        Endpoint(str(model), tmp_path / "answers.sqlite", url=url.removesuffix("/v1")).ask("other", asked)

    server.kill()
    server.wait()
    assert endpoint.ask("test", asked) == answers
    with pytest.raises(ScorerError, match="cannot be reached, at the first try: .*Connection refused"):
        Endpoint(str(model), tmp_path / "new.sqlite", url=url, retries=0).ask("test", asked)
