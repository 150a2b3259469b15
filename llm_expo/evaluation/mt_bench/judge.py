"""FastChat's single-answer grading: what the judge is asked about a turn, and the rating in what it says.

The words are the user's file, FastChat's judge_prompts.jsonl; the second turn is shown with the first one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.evaluation.mt_bench.answers import Answers
from llm_expo.evaluation.mt_bench.judgements import Judgement
from llm_expo.evaluation.mt_bench.questions import Question
from llm_expo.scoring import answers as asked
from llm_expo.scoring.endpoint import Endpoint, Refusal
from llm_expo.scoring.scorer import Progress, unwatched

_MAX_TOKENS = 2048
_FIELD = re.compile(r"\{(question|answer|question_1|question_2|answer_1|answer_2|ref_answer_1|ref_answer_2)\}")
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_RATING_OTHERWISE = re.compile(r"\[(\d+\.?\d*)\]")
_NO_ANSWER = "$ERROR$"

_FIRST, _SECOND = {"question", "answer"}, {"question_1", "answer_1", "question_2", "answer_2"}
_FIELDS = {
    "single-v1": _FIRST,
    "single-math-v1": _FIRST | {"ref_answer_1"},
    "single-v1-multi-turn": _SECOND,
    "single-math-v1-multi-turn": _SECOND | {"ref_answer_1", "ref_answer_2"},
}
"""The prompts of single-answer grading by name, and what each has to hold."""


@dataclass(frozen=True, slots=True)
class Template:
    """`text` holds fields such as {question}."""

    name: str
    system: str
    text: str

    def filled(self, values: Mapping[str, str]) -> str:
        return _FIELD.sub(lambda found: values[found[1]], self.text)


def read_templates(folder: Path) -> dict[str, Template]:
    """The four prompts by name, of FOLDER/judge_prompts.jsonl or, as FastChat has it, of the folder above.

    Raises EvaluationError where there is no such file, or it lacks a prompt or a field.
    """
    path = folder / "judge_prompts.jsonl"
    if not path.exists():
        path = folder.resolve().parent / path.name
    if not path.exists():
        raise EvaluationError(
            f"{folder}: no judge_prompts.jsonl, neither there nor in the folder above: the words that ask the judge; "
            "docs/evaluation.md tells where to get them"
        )
    found: dict[str, Template] = {}
    for place, record in records.from_jsonl(path, EvaluationError):
        match record:
            case {"name": str(name), "system_prompt": str(system), "prompt_template": str(text)}:
                found[name] = Template(name, system, text)
            case _:
                raise EvaluationError(f"{place}: a prompt has the texts `name`, `system_prompt` and `prompt_template`")
    for name, fields in _FIELDS.items():
        if name not in found:
            raise EvaluationError(f"{path}: no prompt {name}; it has {', '.join(found) or 'none'}")
        held = set(_FIELD.findall(found[name].text))
        if held != fields:
            raise EvaluationError(
                f"{path}: the prompt {name} has the fields {', '.join(sorted(held)) or 'none'}, and they ought to be "
                f"{', '.join(sorted(fields))}"
            )
    return {name: found[name] for name in _FIELDS}


def judge(
    model: str,
    answers: Answers,
    questions: Sequence[Question],
    templates: Mapping[str, Template],
    references: Mapping[int, tuple[str, str]],
    endpoint: Endpoint,
    progress: Progress = unwatched,
) -> list[Judgement]:
    """A judgement of both turns of each answer; the endpoint keeps what the judge says.

    What the judge refuses (too long, filtered) has no rating. Raises ScorerError where the endpoint fails.
    """
    turns = [(question, turn) for question in questions for turn in (1, 2)]
    used = [_template(templates, question, turn) for question, turn in turns]
    prompts = [
        template.filled(_values(question, answers.turns[question.id], references.get(question.id), turn))
        for template, (question, turn) in zip(used, turns, strict=True)
    ]
    wanted = [
        asked.Question((("system", template.system), ("user", prompt)), _MAX_TOKENS)
        for template, prompt in zip(used, prompts, strict=True)
    ]
    said = [
        _NO_ANSWER if isinstance(each, Refusal) else each.text
        for each in endpoint.ask(asker(endpoint), wanted, progress)
    ]
    return [
        Judgement(question.id, turn, model, endpoint.model, template.name, prompt, text, rating(text))
        for (question, turn), template, prompt, text in zip(turns, used, prompts, said, strict=True)
    ]


def asker(endpoint: Endpoint) -> str:
    """What the judge's answers are filed under."""
    return f"mt_bench:{endpoint.model}"


def rating(text: str) -> float | None:
    """[[5]], or else [5], wherever it first stands, as FastChat reads it; None where there is none."""
    found = _RATING.search(text) or _RATING_OTHERWISE.search(text)
    if found is None or not math.isfinite(value := float(found[1])):
        return None
    return value


def _template(templates: Mapping[str, Template], question: Question, turn: int) -> Template:
    kind = "single-math-v1" if question.needs_reference else "single-v1"
    return templates[kind if turn == 1 else f"{kind}-multi-turn"]


def _values(
    question: Question, answer: tuple[str, str], reference: tuple[str, str] | None, turn: int
) -> dict[str, str]:
    """By the names of the fields."""
    if turn == 1:
        values = {"question": question.turns[0], "answer": answer[0]}
    else:
        values = {
            "question_1": question.turns[0],
            "question_2": question.turns[1],
            "answer_1": answer[0],
            "answer_2": answer[1],
        }
    if reference is not None:
        values |= {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
    return values
