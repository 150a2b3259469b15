"""Answers in FastChat's file format, a line for each question. Reference answers have the same. Knows no judge.

{"question_id", "answer_id", "model_id", "choices": [{"index": 0, "turns": [first, second]}], "tstamp"}
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import save_lines
from llm_expo.evaluation.mt_bench.questions import Question, id_of, two_turns


@dataclass(frozen=True, slots=True)
class Answers:
    """Both turns by the question's id."""

    source: str
    turns: Mapping[int, tuple[str, str]]


def read_answers(path: Path, questions: Sequence[Question]) -> Answers:
    """Of several choices the first one, as FastChat judges.

    Raises EvaluationError, naming file and line, or the question that lacks.
    """
    turns: dict[int, tuple[str, str]] = {}
    for place, record in records.from_jsonl(path, EvaluationError):
        if not isinstance(record, Mapping):
            raise EvaluationError(f"{place}: not an object but {records.kind(record)}")
        identity = id_of(record, place)
        if identity in turns:
            raise EvaluationError(f"{place}: question {identity} is answered twice")
        match record.get("choices"):
            case [{"turns": said}, *_]:
                turns[identity] = two_turns(said, f"{place}: the answer to question {identity}")
            case _:
                raise EvaluationError(
                    f'{place}: no `choices` [{{"turns": [first, second]}}], as FastChat writes answers; '
                    f"it has {', '.join(record)}"
                )
    if alone := [each for each in questions if each.id not in turns]:
        raise EvaluationError(
            f"{path}: lacks the answers to {len(alone)} of {len(questions)} questions, such as {alone[0].id} "
            f"({alone[0].category})"
        )
    return Answers(str(path), turns)


def read_references(folder: Path, questions: Sequence[Question]) -> Mapping[int, tuple[str, str]]:
    """The answers by which math, reasoning and coding are judged, as far as there are such questions.

    FOLDER/reference_answer/gpt-4.jsonl, as FastChat has it, or FOLDER/reference_answer_gpt-4.jsonl.

    Raises EvaluationError as `read_answers`, or where there is neither file.
    """
    wanted = [each for each in questions if each.needs_reference]
    if not wanted:
        return {}
    places = folder / "reference_answer" / "gpt-4.jsonl", folder / "reference_answer_gpt-4.jsonl"
    for path in places:
        if path.exists():
            return read_answers(path, wanted).turns
    raise EvaluationError(
        f"{folder}: neither {places[0].relative_to(folder)} nor {places[1].name}: the reference answers by which "
        f"{len(wanted)} of {len(questions)} questions are judged; docs/evaluation.md tells where to get them"
    )


def write_answers(path: Path, model: str, answers: Answers) -> None:
    now = time.time()
    save_lines(
        path,
        [
            {
                "question_id": identity,
                "answer_id": hashlib.sha256(repr((model, identity, turns)).encode()).hexdigest()[:22],
                "model_id": model,
                "choices": [{"index": 0, "turns": list(turns)}],
                "tstamp": now,
            }
            for identity, turns in answers.turns.items()
        ],
    )
