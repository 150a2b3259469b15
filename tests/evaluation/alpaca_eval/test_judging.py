"""Outputs, templates and the judge, the latter against a server on loopback."""

import json
import math
import re

import pytest
from chat_server import Chat, ChatServer

from llm_expo.errors import EvaluationError, ScorerError
from llm_expo.evaluation.alpaca_eval.annotations import read_annotations, write_annotations
from llm_expo.evaluation.alpaca_eval.judge import annotate, read_template, second_share, switched
from llm_expo.evaluation.alpaca_eval.outputs import Outputs, read_outputs, write_outputs
from llm_expo.evaluation.alpaca_eval.win_rate import win_rate
from llm_expo.scoring.answers import Answer, Token
from llm_expo.scoring.endpoint import Endpoint

INSTRUCTIONS = [f"question {number}" for number in range(12)]
TEMPLATE = (
    "<|im_start|>system\nJudge.\n<|im_end|>\n<|im_start|>user\n"
    '{\n"instruction": """{instruction}""",\n}\n[m]{output_1}[M]{output_2}[end]\n<|im_end|>'
)


def outputs(generator: str, *texts: str) -> Outputs:
    named = dict(zip(INSTRUCTIONS, texts, strict=False))
    return Outputs(f"{generator}.json", generator, named, dict.fromkeys(named, "made up"))


def shown(text: str) -> tuple[str, str]:
    found = re.search(r"=== Output of model m ===\n(.*)\n\n=== Output of model M ===\n(.*)\n\n=== End", text, re.DOTALL)
    assert found
    return found[1], found[2]


def longer(text: str) -> str:
    m, big_m = map(len, shown(text))
    return "m" if m > big_m else "M"


def certainty(text: str) -> dict[str, float]:
    better = longer(text)
    return {better: 0.6, "m" if better == "M" else "M": 0.2, "The": 0.1}


@pytest.fixture
def server():
    server = ChatServer(Chat(answer=longer, likeliest=certainty))
    yield server
    server.close()


@pytest.fixture
def endpoint(server, tmp_path):
    return lambda: Endpoint("judge", tmp_path / "answers.sqlite", url=server.url)


BASELINE = outputs("base", *["12345"] * 12)
MODEL = outputs("model", *["123456789"] * 9, "1", "1", "12345")


def test_preferences_are_weighed_and_unswitched(server, endpoint):
    found = annotate(MODEL, BASELINE, endpoint(), read_template())
    assert len({switched(each) for each in INSTRUCTIONS}) == 2, "both orders come up"
    assert [each.share for each in found.items] == pytest.approx([0.75] * 9 + [0.25] * 2 + [0.5])
    assert len(server.chat.asked()) == 11, "equal outputs are a draw without asking"
    assert [each.index for each in found.items] == list(range(12))
    assert (found.model, found.baseline) == ("model", "base")
    assert found.annotator.startswith("judge (llm-expo's words ")
    assert (win_rate(found).n_wins, win_rate(found).n_draws) == (9, 1)


def test_words_where_there_are_no_log_probabilities(server, endpoint):
    server.chat.likeliest = None
    found = annotate(MODEL, BASELINE, endpoint(), read_template())
    assert [each.share for each in found.items] == [1.0] * 9 + [0.0] * 2 + [0.5]


def test_no_answer_is_paid_for_twice(server, endpoint):
    first = annotate(MODEL, BASELINE, endpoint(), read_template())
    assert annotate(MODEL, BASELINE, endpoint(), read_template()) == first
    assert server.chat.tries == 11


def test_what_was_answered_before_a_failure_is_kept(server, endpoint, tmp_path):
    few = outputs("model", *["123456789"] * 4), outputs("base", *["12345"] * 4)
    annotate(*few, endpoint(), read_template())
    server.chat.key = "another"
    with pytest.raises(ScorerError, match=r"refuses the key.*Answers kept so far: "):
        annotate(MODEL, BASELINE, endpoint(), read_template())
    server.chat.key = None
    annotate(MODEL, BASELINE, endpoint(), read_template())
    assert len(server.chat.asked()) == 11


def test_a_judge_that_does_not_judge(server, endpoint):
    server.chat.likeliest, server.chat.answer = None, lambda text: "Both are fine."
    with pytest.raises(EvaluationError) as error:
        annotate(MODEL, BASELINE, endpoint(), read_template())
    assert "11 of 11 answers hold no verdict, such as 'Both are fine.'" in str(error.value)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (Answer("m"), 0.0), (Answer("M"), 1.0), (Answer('"M"'), 1.0), (Answer(" m."), 0.0),
        (Answer("Model M"), None), (Answer(""), None), (Answer("More"), None),
        (Answer("M", (Token("M", (("M", math.log(0.9)), ("m", math.log(0.1)))),)), 0.9),
        (Answer("M", (Token("M", (("M", -0.1), ("The", -3.0))),)), 1.0),
        (Answer(" m", (Token(" ", ((" ", 0.0),)), Token("m", (("m", math.log(0.8)), ("M", math.log(0.2)))))), 0.2),
        (Answer("The", (Token("The", (("The", 0.0),)),)), None),
    ],
)  # fmt: skip
def test_what_an_answer_counts(answer, share):
    assert second_share(answer) == (share if share is None else pytest.approx(share))


def test_a_template_in_alpaca_evals_layout(tmp_path):
    path = tmp_path / "clf.txt"
    path.write_text(TEMPLATE)
    template = read_template(path)
    assert template.name.startswith("clf.txt ")
    question = template.question("{output_1}?", "a {instruction}", "b")
    assert question.messages == (
        ("system", "Judge."),
        ("user", '{\n"instruction": """{output_1}?""",\n}\n[m]a {instruction}[M]b[end]'),
    )
    path.write_text(TEMPLATE.replace("[M]{output_2}", ""))
    with pytest.raises(EvaluationError, match=r"clf.txt: the template lacks \{output_2\}"):
        read_template(path)
    path.write_text("Which is better?")
    with pytest.raises(EvaluationError, match=r"clf.txt: a judge's template has messages <|im_start|>ROLE"):
        read_template(path)


def test_outputs_and_annotations_go_both_ways(tmp_path, endpoint):
    path = tmp_path / "run" / "outputs.json"
    write_outputs(path, MODEL)
    assert list(json.loads(path.read_text())[0]) == ["dataset", "instruction", "output", "generator"]
    assert read_outputs(path).texts == MODEL.texts
    found = annotate(read_outputs(path), BASELINE, endpoint(), read_template())
    write_annotations(tmp_path / "annotations.json", found)
    read = read_annotations(tmp_path / "annotations.json")
    assert read.indexed
    assert (read.model, read.baseline, read.annotator) == (found.model, found.baseline, found.annotator)
    for ours, theirs in zip(read.items, found.items, strict=True):
        assert (ours.instruction, ours.output, ours.share) == (
            theirs.instruction,
            theirs.output,
            pytest.approx(theirs.share),
        )


def test_official_outputs(shared_data):
    found = read_outputs(shared_data / "official" / "alpaca_eval" / "zephyr_0.2.outputs.json.gz")
    assert (found.generator, len(found.texts)) == ("zephyr_0.2", 805)


def test_instructions_that_do_not_match(endpoint):
    with pytest.raises(EvaluationError) as error:
        annotate(outputs("model", *["x"] * 11), BASELINE, endpoint(), read_template())
    assert "base.json answers 12 instructions and model.json 11; 1 of the former" in str(error.value)
    assert "such as 'question 11'" in str(error.value)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ({}, "outputs are a list of objects, this is an object"),
        ([3], "output 1: not an object but a number"),
        ([{"instruction": "q"}], "output 1: no text `output`; it has instruction"),
        ([{"instruction": "q", "output": "a"}] * 2, "output 2: 'q' is answered twice"),
        (
            [{"instruction": each, "output": "a", "generator": each} for each in "xy"],
            "output 2: the generator is 'y', and 'x' before; one model a file",
        ),
    ],
)
def test_what_are_no_outputs(tmp_path, records, told):
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(records))
    with pytest.raises(EvaluationError) as error:
        read_outputs(path)
    assert told in str(error.value)
