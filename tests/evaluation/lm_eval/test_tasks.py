"""Which tasks are asked for."""

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval.results import columns, score_key
from llm_expo.evaluation.lm_eval.tasks import LEADERBOARD, Asked, read_tasks


def test_the_leaderboard_is_the_papers(shared_data):
    import json

    paper = json.loads((shared_data / "paper" / "tables.json").read_text())["alignment_tax_tasks"]["tasks"]
    assert {each.name: each.shots for each in LEADERBOARD} == paper
    assert list(columns(reversed(paper))) == list(paper)


def test_names_and_shots():
    assert read_tasks("leaderboard") == LEADERBOARD
    asked = read_tasks("gpqa, ifeval:0,a::b,a::c:3")
    assert asked == (Asked("gpqa"), Asked("ifeval", 0), Asked("a::b"), Asked("a::c", 3))
    assert read_tasks("leaderboard,ifeval")[-1] == Asked("ifeval")
    with pytest.raises(EvaluationError, match="--tasks leaderboard,gsm8k:8: gsm8k stands there twice"):
        read_tasks("leaderboard,gsm8k:8")
    with pytest.raises(EvaluationError, match="--tasks names no task; write NAME or NAME:SHOTS"):
        read_tasks(" ,")


def test_the_score_of_a_task():
    assert (
        score_key("gsm8k", ["exact_match,flexible-extract", "exact_match,strict-match"]) == "exact_match,strict-match"
    )
    assert score_key("hellaswag", ["alias", "acc,none", "acc_norm,none"]) == "acc_norm,none"
    assert score_key("mine", ["exact_match,my-filter", "exact_match_stderr,my-filter"]) == "exact_match,my-filter"
    assert score_key("mine", ["acc"]) == "acc"
    assert score_key("mine", ["bleu,none"]) is None
