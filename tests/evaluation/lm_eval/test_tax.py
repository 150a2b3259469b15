"""The alignment tax of the paper's official results, and of results as lm-evaluation-harness writes them."""

import json
import math

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval import words
from llm_expo.evaluation.lm_eval.results import Results, Score, read_results
from llm_expo.evaluation.lm_eval.tax import pair_up, tax

SIX = ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k"]


def results(model: str, se: float | None = 1.0, **scores: float) -> Results:
    return Results(model, {task: Score(value, se, "acc") for task, value in scores.items()})


def test_the_official_results(shared_data):
    found = read_results(shared_data / "official" / "lm_eval" / "results.json")
    paper = json.loads((shared_data / "paper" / "tables.json").read_text())
    assert all(list(each.scores) == SIX == list(paper["alignment_tax_tasks"]["tasks"]) for each in found)
    pairs = pair_up(found)
    assert [model.model for _, model in pairs] == [f"{reference.model}-ExPO" for reference, _ in pairs]
    cells = tax(pairs)
    assert len(cells) == 42
    assert sum(each.p < 0.05 for each in cells) == 2
    [severe] = [each for each in cells if each.significant]
    assert (severe.reference, severe.task) == ("LLaMA3-iterative-DPO-final", "gsm8k")
    assert severe.difference == pytest.approx(-7.66, abs=0.01)
    assert severe.se == pytest.approx(1.87, abs=0.01)
    told = words.standing_out(cells)
    assert told == [
        "LLaMA3-iterative-DPO-final-ExPO, gsm8k: 67.2 → 59.6, -7.7 ± 1.9 points (p = 4.2e-05): a tax",
        "40 of 42 cells lie within noise (p >= 0.05)",
    ]
    table = words.table(cells)
    assert table[0] == ("model", *SIX)
    assert table[1][-1] == "-7.7 ± 1.9**"
    assert len(table) == 8


def test_mmlu_is_the_plain_mean_of_its_subjects(shared_data):
    path = shared_data / "official" / "lm_eval" / "results.json"
    raw = json.loads(path.read_text())["tulu-2-dpo-7b"]["mmlu"]
    mmlu = next(each for each in read_results(path) if each.model == "tulu-2-dpo-7b").scores["mmlu"]
    assert mmlu.value == pytest.approx(100 * math.fsum(each["acc"] for each in raw.values()) / 57)
    assert mmlu.se == pytest.approx(100 * math.sqrt(math.fsum(each["acc_stderr"] ** 2 for each in raw.values())) / 57)
    assert mmlu.metric == "mean acc of 57 subjects"


def test_what_lm_eval_writes(tmp_path):
    path = tmp_path / "results_2026.json"
    tasks = {
        "arc_challenge": {"acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.6, "acc_norm_stderr,none": 0.02},
        "mmlu": {"acc,none": 0.9, "acc_stderr,none": 0.01},
        "mmlu_stem": {"acc,none": 0.9},
        "mmlu_anatomy": {"acc,none": 0.4, "acc_stderr,none": 0.03},
        "mmlu_astronomy": {"acc,none": 0.6, "acc_stderr,none": 0.04},
        "gsm8k": {
            "exact_match,strict-match": 0.3,
            "exact_match_stderr,strict-match": 0.01,
            "exact_match,flexible-extract": 0.4,
        },
        "my_task": {"acc,none": 0.7, "acc_stderr,none": "N/A"},
    }
    path.write_text(json.dumps({"model_name": "org/model", "results": tasks}))
    [found] = read_results(path)
    assert found.model == "org/model"
    assert list(found.scores) == ["arc_challenge", "mmlu", "gsm8k", "my_task"]
    assert found.scores["arc_challenge"] == Score(60, 2, "acc_norm")
    assert (found.scores["mmlu"].value, found.scores["mmlu"].se) == (50, pytest.approx(2.5))
    assert found.scores["gsm8k"].value == pytest.approx(30)
    assert found.scores["my_task"].se is None


def test_the_first_is_the_reference_where_names_tell_nothing():
    a, b, c = (results(name, x=50.0) for name in "abc")
    assert pair_up([a, b, c]) == [(a, b), (a, c)]
    with pytest.raises(EvaluationError, match=r"give the results of two models or more, the reference first"):
        pair_up([a])
    with pytest.raises(EvaluationError, match=r"the results hold a twice"):
        pair_up([a, a])


def test_significance_counts_all_cells():
    one = tax([(results("a", x=50.0), results("b", x=47.0))])
    assert one[0].p == pytest.approx(0.0339, abs=1e-4)
    assert one[0].significant
    names = [f"t{number}" for number in range(6)]
    six = tax(
        [(results("a", **dict.fromkeys(names, 50.0)), results("b", **{**dict.fromkeys(names, 50.0), "t3": 47.0}))]
    )
    assert not any(each.significant for each in six)
    assert words.table(six)[1][4] == "-3.0 ± 1.4*"


def test_scores_without_errors_have_no_significance():
    [cell] = tax([(results("a", None, x=50.0), results("b", x=40.0))])
    assert (cell.se, cell.p, cell.significant) == (None, None, False)
    assert words.standing_out([cell]) == ["0 of 1 cells lie within noise (p >= 0.05); 1 have no standard error"]
    assert words.table([cell])[1] == ("b", "-10.0")


def test_what_cannot_be_compared():
    with pytest.raises(EvaluationError, match=r"a and b have no task in common: x; y"):
        tax([(results("a", x=50.0), results("b", y=50.0))])
    other = Results("b", {"x": Score(50.0, 1.0, "acc_norm")})
    with pytest.raises(EvaluationError, match=r"x: a has acc and b acc_norm; compare one"):
        tax([(results("a", x=50.0), other)])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "not JSON"),
        ("[]", "neither lm-eval's results nor {MODEL: {SUITE: {TASK: ...}}}"),
        ('{"results": {}}', "holds no tasks with their metrics"),
        ('{"m": {"s": 3}}', "m: holds no tasks with their metrics"),
        ('{"m": {"s": {"t": {"bleu": 0.5}}}}', "m: t: no metric acc_norm or acc or exact_match or"),
        ('{"m": {"s": {"t": {"acc": 50}}}}', "m: t: acc is 50, not a share from 0 to 1"),
    ],
)
def test_what_are_no_results(tmp_path, content, told):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(EvaluationError) as error:
        read_results(path)
    assert told in str(error.value)
    with pytest.raises(EvaluationError, match=r"none.json: no such file"):
        read_results(tmp_path / "none.json")
