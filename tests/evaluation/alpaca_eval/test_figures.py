"""AlpacaEval's figures: the official files give the leaderboard's, and judgements of other shapes are told by name."""

import csv
import gzip
import json
import math
import random
from pathlib import Path

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.alpaca_eval import words
from llm_expo.evaluation.alpaca_eval.annotations import read_annotations
from llm_expo.evaluation.alpaca_eval.companion import read_companion
from llm_expo.evaluation.alpaca_eval.comparison import compare_models
from llm_expo.evaluation.alpaca_eval.length_control import length_controlled
from llm_expo.evaluation.alpaca_eval.win_rate import win_rate

NAMES = ("zephyr_0.1", "zephyr-7b-sft-full")
HEAD = "index,preference,std_delta_len,instruction_difficulty\n"


def judged(n: int = 40, seed: int = 0, lift: float = 0.0, **fields: object) -> list[dict[str, object]]:
    """Annotations whose preference follows the length difference and, by `lift`, the model."""
    rng = random.Random(seed)
    records = []
    for number in range(n):
        more = rng.randint(-150, 150)
        share = 1 / (1 + math.exp(-more / 60 - lift - rng.gauss(0, 0.5)))
        outputs = {"output_1": "b" * 200, "output_2": "m" * (200 + more)}
        names = {"generator_1": "base", "generator_2": "model", "annotator": "judge"}
        records.append({"instruction": f"question {number}", **outputs, **names, "preference": 1 + share, **fields})
    return records


@pytest.fixture
def annotations(tmp_path):
    """annotations(records, name="a.json") -> what is read of them."""

    def write(records: object, name: str = "a.json"):
        (tmp_path / name).write_text(json.dumps(records))
        return read_annotations(tmp_path / name)

    return write


@pytest.mark.parametrize("name", NAMES)
def test_the_leaderboard_to_nine_digits(name, shared_data):
    folder = shared_data / "official" / "alpaca_eval"
    with (folder / "leaderboard.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row[""] == name]
    found = win_rate(read_annotations(folder / f"{name}.annotations.json.gz"))
    for key in ("win_rate", "standard_error", "discrete_win_rate"):
        assert getattr(found, key) == pytest.approx(float(row[key]), rel=1e-9)
    for key in ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length"):
        assert getattr(found, key) == int(row[key])
    assert found.without == 0


def test_draws_and_missing_verdicts(annotations):
    records = judged(5)
    for record, preference in zip(records, (1, 2, 0, 1.5, None), strict=True):
        record["preference"] = preference
    found = win_rate(annotations(records))
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.n_total, found.without) == (1, 1, 2, 4, 1)
    assert (found.win_rate, found.discrete_win_rate) == (50, 50)
    assert found.standard_error == pytest.approx(100 * math.sqrt(0.5 / 3) / 2)


def test_length_control_takes_out_what_length_explains(annotations):
    long, short = judged(200), judged(200)
    for record in long:
        record["output_2"] += "m" * 100
        record["preference"] = min(2.0, record["preference"] + 0.2)
    controlled = length_controlled(annotations(short))
    assert controlled.form == "minimal"
    assert controlled.win_rate == pytest.approx(50, abs=5)
    assert controlled.coefficients[0] < 0, "the longer the baseline's output, the fewer wins"
    inflated = annotations(long, "long.json")
    assert length_controlled(inflated).win_rate < win_rate(inflated).win_rate - 5


def test_the_full_form_uses_difficulty_by_index(annotations, tmp_path):
    rng = random.Random(3)
    rows = [(index, rng.random(), rng.gauss(0, 1), rng.gauss(0, 2)) for index in range(60)]
    path = tmp_path / "df_gamed.csv"
    path.write_text(HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows))
    companion = read_companion(path)
    records = [{**record, "index": 10 + place} for place, record in enumerate(judged(40))]
    found = length_controlled(annotations(records), companion)
    assert (found.form, len(found.coefficients)) == ("full", 3)
    # Only the index says which difficulty is whose: the order in the file does not matter to the win rate much.
    backwards = length_controlled(annotations(records[::-1], "b.json"), companion)
    assert backwards.win_rate == pytest.approx(found.win_rate, abs=0.5)
    with pytest.raises(EvaluationError, match=r"40 annotations without `index`.*difficulty of 60 instructions"):
        length_controlled(annotations(judged(40), "c.json"), companion)
    records[3]["index"] = 99
    with pytest.raises(EvaluationError, match=r"d.json, annotation 4: .*df_gamed.csv has no instruction 99"):
        length_controlled(annotations(records, "d.json"), companion)


def test_a_model_against_itself_has_half(annotations):
    assert length_controlled(annotations(judged(5, generator_2="base"))).win_rate == 50


def test_two_models_compared(annotations):
    before = annotations(judged(120, generator_2="theta1"), "before.json")
    after = annotations(judged(120, lift=1.0, generator_2="theta(0.5)")[::-1], "after.json")
    compared = compare_models([before, after], replicates=60)
    assert [each.model for each in compared.models] == ["theta1", "theta(0.5)"]
    [difference] = compared.differences
    assert (difference.reference, difference.win_rate.n) == ("theta1", 120)
    rates = [each.plain.win_rate for each in compared.models]
    assert difference.win_rate.mean == pytest.approx(rates[1] - rates[0])
    # Same outputs and the same noise, so that pairing takes out nearly all of it.
    assert difference.win_rate.se < compared.models[0].plain.standard_error / 4
    controlled = [each.controlled.win_rate for each in compared.models]
    assert difference.length_controlled.mean == pytest.approx(controlled[1] - controlled[0])
    assert 0 < difference.length_controlled.se < 3
    assert 0 < difference.length_controlled.low < difference.length_controlled.high
    assert all(0 < each.controlled_se < 6 for each in compared.models)
    assert compare_models([before, after], replicates=60) == compared
    assert [row[0] for row in words.table(compared)] == ["theta1", "theta(0.5)"]
    told = words.lines(compared)
    assert "minimal form" in told[0]
    assert told[1].startswith("theta(0.5) - theta1: win rate +")


def test_models_of_one_name_are_called_by_file(annotations):
    compared = compare_models([annotations(judged(20), "a.json"), annotations(judged(20), "b.json")], replicates=5)
    assert [Path(each.model).name for each in compared.models] == ["a.json", "b.json"]
    assert [Path(each.reference).name for each in compared.differences] == ["a.json"]


def test_a_penalty_that_leaves_nothing_is_told(annotations):
    draw = random.Random(5)
    records = [{**each, "preference": draw.choice((1, 2))} for each in judged(20)]
    compared = compare_models([annotations(records)], replicates=5)
    assert (compared.models[0].controlled.win_rate, compared.models[0].controlled_se) == (50, 0)
    assert words.lines(compared)[1].startswith("model: its LC win rate of 50 was not measured: the penalty")


@pytest.mark.slow
def test_the_bootstrap_with_a_penalty_held_is_as_wide_as_with_one_chosen_each_time(shared_data):
    import numpy as np

    from llm_expo.evaluation.alpaca_eval.length_control import choose_strength, predict, rows_of

    rows = rows_of(read_annotations(shared_data / "official" / "alpaca_eval" / "zephyr_0.1.annotations.json.gz"), None)
    strength, rng = choose_strength(rows), np.random.default_rng(0)
    held, chosen = [], []
    for _ in range(100):
        drawn = rows.take(rng.integers(805, size=805))
        held.append(predict(drawn, strength)[0])
        chosen.append(predict(drawn, choose_strength(drawn))[0])
    assert np.std(held) == pytest.approx(np.std(chosen), rel=0.1)


def test_models_have_to_answer_the_same_instructions(annotations):
    first = annotations(judged(20), "first.json")
    with pytest.raises(EvaluationError) as error:
        compare_models([first, annotations(judged(19), "second.json")])
    assert "first.json judges 20 instructions" in str(error.value)
    assert "1 of the former are not among the latter, such as 'question 19'" in str(error.value)
    with pytest.raises(EvaluationError, match=r"different baseline outputs \(output_1\) for 'question 0'"):
        compare_models([first, annotations(judged(20, output_1="x"), "third.json")])
    with pytest.raises(EvaluationError, match=r"judges 'question' twice"):
        compare_models([first, annotations(judged(20, instruction="question"), "fourth.json")])


def test_too_little_to_tell(annotations):
    with pytest.raises(EvaluationError, match=r"a win rate needs two verdicts or more; it holds 1"):
        win_rate(annotations(judged(1)))
    with pytest.raises(EvaluationError, match=r"length control needs 10 verdicts or more; it holds 9"):
        length_controlled(annotations(judged(9)))
    with pytest.raises(EvaluationError, match=r"all outputs differ from the baseline's by 0 characters"):
        length_controlled(annotations(judged(20, output_1="same", output_2="same")))


ONE = judged(1)[0]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ({}, "annotations are a list of objects, this is an object"),
        ([], "this is an empty list"),
        ([3], "annotation 1: not an object but a number"),
        ([ONE, {"instruction": "q"}], "annotation 2: generator_1 is 'baseline', and 'base' before"),
        ([{"instruction": "q"}], "annotation 1: no `output_1`; it has instruction"),
        ([{**ONE, "output_2": None}], "annotation 1: output_2 is null, not a text"),
        ([{**ONE, "preference": "m"}], "annotation 1: preference is a text, not a number from 1 to 2 or null"),
        ([{**ONE, "preference": 3}], "annotation 1: preference is 3; it is 1 for output_1, 2 for output_2"),
        ([{key: ONE[key] for key in ONE if key != "preference"}], "annotation 1: no `preference`; it has instruction"),
        ([ONE, {**ONE, "generator_2": "other"}], "generator_2 is 'other', and 'model' before; put each model"),
        ([ONE, {**ONE, "index": 3}], "1 of 2 annotations have an `index`; give all of them one"),
        ([{**ONE, "index": 3}, {**ONE, "index": 3}], "annotations 1 and 2 both have index 3"),
        ([{**ONE, "index": "3"}], "annotation 1: index is '3', not a whole number"),
    ],
)
def test_files_of_other_shapes(annotations, records, told):
    with pytest.raises(EvaluationError) as error:
        annotations(records)
    assert told in str(error.value)
    assert "a.json" in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(EvaluationError, match=r"a.json: no such file"):
        read_annotations(path)
    path.write_text("[{")
    with pytest.raises(EvaluationError, match=r"a.json: not JSON"):
        read_annotations(path)
    path.write_bytes(gzip.compress(b"[]")[:-9])
    with pytest.raises(EvaluationError, match=r"a.json: cannot be read"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column index, preference, std_delta_len, instruction_difficulty; it has nothing"),
        ("index,preference\n", "no column std_delta_len, instruction_difficulty; it has index, preference"),
        (HEAD, "holds no rows"),
        (HEAD + "0,0.5,x,1\n", "line 2: std_delta_len is 'x', not a number"),
        (HEAD + "0,1.5,0,1\n", "line 2: preference is 1.5, not from 0 to 1"),
        (HEAD + "0,0.5,0,1\n0,0.5,0,2\n", "line 3: instruction 0 has another difficulty than before"),
    ],
)
def test_what_is_no_companion(tmp_path: Path, text, told):
    path = tmp_path / "df_gamed.csv"
    path.write_text(text)
    with pytest.raises(EvaluationError) as error:
        read_companion(path)
    assert told in str(error.value)
    with pytest.raises(EvaluationError, match=r"none.csv: no such file"):
        read_companion(tmp_path / "none.csv")
