"""Judgements in FastChat's file format (model_judgment/JUDGE_single.jsonl), a line for each turn. Knows no judge.

{"question_id", "model", "judge": [model, prompt], "user_prompt", "judgment", "score", "turn", "tstamp"}; the score is
-1 where the judge gave no rating.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import save_lines
from llm_expo.evaluation.mt_bench.questions import id_of

_NO_RATING = -1


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one turn of one model's answer: who judged by which prompt, what it was asked and what it said.

    `score` is None where that holds no rating.
    """

    question: int
    turn: int
    model: str
    judge: str
    template: str
    prompt: str
    said: str
    score: float | None


def read_judgements(paths: Sequence[Path]) -> list[Judgement]:
    """The judgements of all files; a file may hold several models.

    Raises EvaluationError, naming file and line; for two judges, too.
    """
    judgements: dict[tuple[str, int, int], Judgement] = {}
    places: dict[tuple[str, int, int], str] = {}
    for path in paths:
        for place, record in records.from_jsonl(path, EvaluationError):
            found = _judgement(record, place)
            key = found.model, found.question, found.turn
            if key in places:
                raise EvaluationError(
                    f"{place}: turn {found.turn} of {found.model}'s answer to question {found.question} is judged at "
                    f"{places[key]} already; leave one of them"
                )
            judgements[key], places[key] = found, place
            judge = next(iter(judgements.values())).judge
            if found.judge != judge:
                raise EvaluationError(
                    f"{place}: the judge is {found.judge}, and {judge} before; scores are one judge's"
                )
    if not judgements:
        raise EvaluationError(f"{paths[0]}: holds no judgements")
    return list(judgements.values())


def write_judgements(path: Path, judgements: Sequence[Judgement]) -> None:
    now = time.time()
    save_lines(
        path,
        [
            {
                "question_id": each.question,
                "model": each.model,
                "judge": [each.judge, each.template],
                "user_prompt": each.prompt,
                "judgment": each.said,
                "score": _NO_RATING if each.score is None else each.score,
                "turn": each.turn,
                "tstamp": now,
            }
            for each in judgements
        ],
    )


def _judgement(record: object, place: str) -> Judgement:
    if not isinstance(record, Mapping):
        raise EvaluationError(f"{place}: not an object but {records.kind(record)}")
    question, model, turn = id_of(record, place), record.get("model"), record.get("turn")
    if not isinstance(model, str):
        raise EvaluationError(
            f"{place}: no `model`, so no judgement of FastChat's single-answer grading; it has {', '.join(record)}"
        )
    if turn not in (1, 2):
        raise EvaluationError(f"{place}: turn is {turn!r}, not 1 or 2")
    match record.get("judge"):
        case [str(judge), str(template)]:
            pass
        case other:
            raise EvaluationError(f"{place}: judge is {other!r}, not [MODEL, PROMPT]")
    said, prompt = str(record.get("judgment", "")), str(record.get("user_prompt", ""))
    return Judgement(question, turn, model, judge, template, prompt, said, _score(record.get("score"), place))


def _score(value: Any, place: str) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvaluationError(f"{place}: score is {value!r}, not a number")
    return None if value == _NO_RATING else float(value)
