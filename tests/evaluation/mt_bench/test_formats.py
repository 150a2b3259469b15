"""FastChat's files, read and written, against its own questions, references and prompts where they lie beside."""

import json
from collections import Counter
from pathlib import Path

import pytest

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.mt_bench.answers import Answers, read_answers, read_references, write_answers
from llm_expo.evaluation.mt_bench.judge import rating, read_templates
from llm_expo.evaluation.mt_bench.judgements import Judgement, read_judgements, write_judgements
from llm_expo.evaluation.mt_bench.questions import Question, first, read_questions

QUESTIONS = [Question(81, "writing", ("w1", "w2")), Question(121, "math", ("m1", "m2"))]
ANSWER = {"question_id": 81, "choices": [{"index": 0, "turns": ["a", "b"]}]}
JUDGEMENT = {"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "score": 5, "turn": 1}
PROMPT = {"name": "single-v1", "system_prompt": "", "prompt_template": "{question} {answer}"}


def lines(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


@pytest.fixture
def official(shared_data) -> Path:
    return shared_data / "mt_bench"


def test_the_official_questions(official):
    questions = read_questions(official)
    assert len(questions) == 80
    assert set(Counter(each.category for each in questions).values()) == {10}
    warmth = {each.category: each.sampling.temperature for each in questions}
    assert warmth == {
        "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
        "stem": 0.1, "humanities": 0.1,
    }  # fmt: skip
    assert [each.id for each in first(questions, 1)] == [81, 91, 101, 111, 121, 131, 141, 151]
    assert first(questions, None) == questions


def test_the_official_references(official, tmp_path):
    questions = read_questions(official)
    references = read_references(official, questions)
    assert sorted(references) == [each.id for each in questions if each.needs_reference]
    (tmp_path / "reference_answer").mkdir()  # FastChat's own layout
    (tmp_path / "reference_answer" / "gpt-4.jsonl").symlink_to(official / "reference_answer_gpt-4.jsonl")
    assert read_references(tmp_path, questions) == references


def test_the_judge_is_asked_what_fastchat_asks(official):
    questions, templates = read_questions(official), read_templates(official)
    assert list(templates) == ["single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"]
    for question in questions:
        one, two = question.turns
        values = {"question": one, "question_1": one, "question_2": two, "answer": "{question}", "answer_1": "x"}
        values |= {"answer_2": "y", "ref_answer_1": "r{0}", "ref_answer_2": "s"}
        for template in templates.values():
            assert template.filled(values) == template.text.format(**values)  # as FastChat fills them in


def test_answers_go_both_ways(official, tmp_path):
    questions = [each for each in read_questions(official) if each.needs_reference]
    found = read_answers(official / "reference_answer_gpt-4.jsonl", questions)
    path = tmp_path / "model_answer" / "gpt-4.jsonl"
    write_answers(path, "gpt-4", found)
    assert read_answers(path, questions).turns == found.turns
    theirs = json.loads((official / "reference_answer_gpt-4.jsonl").read_text().splitlines()[0])
    ours = json.loads(path.read_text().splitlines()[0])
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
    assert (ours["question_id"], ours["model_id"], ours["choices"]) == (101, "gpt-4", theirs["choices"])


def test_judgements_go_both_ways(tmp_path):
    judgements = [
        Judgement(81, 1, "m", "gpt-4", "single-v1", "asked", "Fine. [[7.5]]", 7.5),
        Judgement(81, 2, "m", "gpt-4", "single-v1-multi-turn", "asked", "half \ud800 of a character", None),
    ]
    path = tmp_path / "model_judgment" / "gpt-4_single.jsonl"
    write_judgements(path, judgements)
    assert read_judgements([path]) == judgements
    record = json.loads(path.read_text().splitlines()[1])
    assert list(record) == ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]
    assert (record["judge"], record["score"]) == (["gpt-4", "single-v1-multi-turn"], -1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rating: [[5]]", 5), ("[[7.5]] and [[3]]", 7.5), ("see [1]. Rating: [[8]]", 8), ("Rating: [6]", 6),
        ("Rating: 6", None), ("[[ 6 ]]", None), ("[[rating]]", None), ("", None), ("[[10.]]", 10), ("[[100]]", 100),
        ("[[6/10]]", None), (f"[[{'9' * 400}]]", None),
    ],
)  # fmt: skip
def test_the_rating_in_what_a_judge_says(text, found):
    assert rating(text) == found


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], "question.jsonl: holds no questions"),
        ([3], "question.jsonl, line 1: not an object but a number"),
        ([{"text": "q"}], "line 1: no `question_id`, and it is a whole number; it has text"),
        ([{"question_id": "q1"}], "line 1: question_id is 'q1', and it is a whole number; it has question_id"),
        ([{"question_id": 1, "turns": ["a", "b"]}], "question 1 has no `category`; it has question_id, turns"),
        ([{"question_id": 1, "category": "math"}], "question 1: `turns` is null, not a list of two texts"),
        (
            [{"question_id": 1, "category": "math", "turns": ["a"]}],
            "question 1: MT-Bench has two turns, texts; `turns` is a list of 1",
        ),
        (
            [{"question_id": 1, "category": "math", "turns": ["a", "b"]}] * 2,
            "line 2: question 1 stands there twice",
        ),
        ([{"question_id": 1, "category": "math", "turns": ["a", "\ud800"]}], "question 1: holds half of a character"),
    ],
)
def test_what_are_no_questions(tmp_path, records, told):
    lines(tmp_path / "question.jsonl", *records)
    with pytest.raises(EvaluationError) as error:
        read_questions(tmp_path)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([ANSWER], "answers.jsonl: lacks the answers to 1 of 2 questions, such as 121 (math)"),
        ([ANSWER, ANSWER], "line 2: question 81 is answered twice"),
        ([{"question_id": 81, "output": "a"}], 'line 1: no `choices` [{"turns": [first, second]}]'),
        ([{"question_id": 81, "choices": [{"turns": ["a"]}]}], "the answer to question 81: MT-Bench has two turns"),
        (["a"], "line 1: not an object but a text"),
    ],
)
def test_what_are_no_answers(tmp_path, records, told):
    path = lines(tmp_path / "answers.jsonl", *records)
    with pytest.raises(EvaluationError) as error:
        read_answers(path, QUESTIONS)
    assert told in str(error.value)


def test_missing_references(tmp_path):
    assert read_references(tmp_path, QUESTIONS[:1]) == {}
    with pytest.raises(EvaluationError) as error:
        read_references(tmp_path, QUESTIONS)
    assert str(error.value).startswith(
        f"{tmp_path}: neither reference_answer/gpt-4.jsonl nor reference_answer_gpt-4.jsonl: the reference answers by "
        "which 1 of 2 questions are judged; "
    )
    write_answers(tmp_path / "reference_answer_gpt-4.jsonl", "gpt-4", Answers("", {122: ("a", "b")}))
    with pytest.raises(EvaluationError, match=r"reference_answer_gpt-4.jsonl: lacks the answers to 1 of 1 questions"):
        read_references(tmp_path, QUESTIONS)


def test_missing_prompts(tmp_path):
    folder = tmp_path / "data" / "mt_bench"
    folder.mkdir(parents=True)
    with pytest.raises(
        EvaluationError, match="mt_bench: no judge_prompts.jsonl, neither there nor in the folder above"
    ):
        read_templates(folder)
    lines(folder.parent / "judge_prompts.jsonl", PROMPT)  # FastChat's own place
    with pytest.raises(EvaluationError, match=r"judge_prompts.jsonl: no prompt single-math-v1; it has single-v1"):
        read_templates(folder)
    lines(folder / "judge_prompts.jsonl", {**PROMPT, "prompt_template": "{question}"})
    with pytest.raises(EvaluationError) as error:
        read_templates(folder)
    assert "the prompt single-v1 has the fields question, and they ought to be answer, question" in str(error.value)
    lines(folder / "judge_prompts.jsonl", {"name": "single-v1"})
    with pytest.raises(EvaluationError, match="line 1: a prompt has the texts `name`, `system_prompt` and"):
        read_templates(folder)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], "gpt-4_single.jsonl: holds no judgements"),
        ([[]], "line 1: not an object but a list"),
        (
            [{"question_id": 81, "model_1": "a", "g1_winner": "tie"}],
            "line 1: no `model`, so no judgement of FastChat's single-answer grading; it has question_id, model_1",
        ),
        ([{**JUDGEMENT, "turn": 3}], "line 1: turn is 3, not 1 or 2"),
        ([{**JUDGEMENT, "judge": "gpt-4"}], "line 1: judge is 'gpt-4', not [MODEL, PROMPT]"),
        ([{**JUDGEMENT, "score": "5"}], "line 1: score is '5', not a number"),
        ([{**JUDGEMENT, "score": float("nan")}], "line 1: score is nan, not a number"),
        ([JUDGEMENT, JUDGEMENT], "line 2: turn 1 of m's answer to question 81 is judged at "),
        (
            [JUDGEMENT, {**JUDGEMENT, "turn": 2, "judge": ["gpt-4o", "single-v1"]}],
            "line 2: the judge is gpt-4o, and gpt-4 before",
        ),
    ],
)
def test_what_are_no_judgements(tmp_path, records, told):
    path = lines(tmp_path / "gpt-4_single.jsonl", *records)
    with pytest.raises(EvaluationError) as error:
        read_judgements([path])
    assert told in str(error.value)
