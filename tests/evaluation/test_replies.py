"""Replies that are kept as they come, and models by name."""

import json

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.models import Model, read_models
from llm_expo.evaluation.replies import kept_replies
from llm_expo.generation import Prompt
from llm_expo.testing import FakeEngine

PROMPTS = [Prompt(f"p{n}", ({"role": "user", "content": f"say {n}"},)) for n in range(7)]


def engine(seed: int = 42) -> FakeEngine:
    return FakeEngine(lambda alpha: alpha, seed=seed)


def unwatched(*_: object) -> None:
    pass


def test_a_killed_run_makes_only_what_is_missing(tmp_path):
    path = tmp_path / "model" / "replies.jsonl"
    told = []
    whole = kept_replies(path, engine(), PROMPTS, 3, lambda *each: told.append(each))
    assert list(whole) == [prompt.id for prompt in PROMPTS]
    assert told == [("replies", done, 7) for done in (0, 3, 6, 7)]
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(b"p4") + 5])  # in the middle of the line of p4
    second = engine()
    assert kept_replies(path, second, PROMPTS, 3, unwatched) == whole
    assert [id_ for _, id_ in second.generated] == ["p4", "p5", "p6"]
    assert path.read_bytes() == raw
    third = engine()
    assert kept_replies(path, third, PROMPTS[2:4], 3, unwatched) == {each: whole[each] for each in ("p2", "p3")}
    assert third.generated == []


def test_other_settings_and_another_prompt_are_refused(tmp_path):
    path = tmp_path / "replies.jsonl"
    kept_replies(path, engine(), PROMPTS, 3, unwatched)
    with pytest.raises(EvaluationError, match="made with seed 42, and now it is 43; go on with the old setting, or"):
        kept_replies(path, engine(43), PROMPTS, 3, unwatched)
    other = Prompt("p3", ({"role": "user", "content": "say something else"},))
    with pytest.raises(EvaluationError, match="replies.jsonl, line 5: the prompt 'p3' was another one then"):
        kept_replies(path, engine(), [other], 3, unwatched)
    with path.open("a") as file:
        file.write("oops\n")
    with pytest.raises(EvaluationError, match="replies.jsonl, line 9: not JSON"):
        kept_replies(path, engine(), PROMPTS, 3, unwatched)
    assert json.loads(path.read_text().splitlines()[0])["settings"]["seed"] == 42


def test_models_have_names(tmp_path):
    (tmp_path / "dpo").mkdir()
    (tmp_path / "a.json.gz").write_text("[]")
    given = [f"{tmp_path}/dpo/", "org/sft@main", f"best={tmp_path}/dpo", f"{tmp_path}/a.json.gz"]
    models = read_models(given)
    assert [model.name for model in models] == ["dpo", "org__sft@main", "best", "a"]
    assert [model.is_file for model in models] == [False, False, False, True]
    assert models[2] == Model("best", f"{tmp_path}/dpo")
    with pytest.raises(EvaluationError, match="a/dpo and b/dpo are both called dpo; write NAME=b/dpo for one"):
        read_models([f"dpo={each}/dpo" for each in "ab"])
