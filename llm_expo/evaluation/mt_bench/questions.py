"""MT-Bench's questions, as FastChat's question.jsonl has them. Knows no answers and no judge."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.generation import Sampling

NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged by a reference answer (FastChat's NEED_REF_CATS)."""

_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
_OTHERWISE = 0.7


@dataclass(frozen=True, slots=True)
class Question:
    """What the user says in both turns."""

    id: int
    category: str
    turns: tuple[str, str]

    @property
    def needs_reference(self) -> bool:
        return self.category in NEED_REFERENCE

    @property
    def sampling(self) -> Sampling:
        """FastChat's: a temperature by category, up to 1024 tokens, no penalties, and what transformers' `generate`
        does where it is told nothing else: top-k 50, no top-p.
        """
        return Sampling(
            temperature=_TEMPERATURES.get(self.category, _OTHERWISE),
            top_k=50,
            top_p=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=1024,
        )


def read_questions(folder: Path) -> list[Question]:
    """Those of FOLDER/question.jsonl. Raises EvaluationError, naming file and line."""
    path = folder / "question.jsonl"
    questions: dict[int, Question] = {}
    for place, record in records.from_jsonl(path, EvaluationError):
        question = _question(record, place)
        if question.id in questions:
            raise EvaluationError(f"{place}: question {question.id} stands there twice")
        questions[question.id] = question
    if not questions:
        raise EvaluationError(f"{path}: holds no questions")
    return list(questions.values())


def first(questions: Sequence[Question], count: int | None) -> list[Question]:
    """The first `count` of each category, None is all: so few questions, too, are of every kind."""
    seen: Counter[str] = Counter()
    kept = []
    for question in questions:
        seen[question.category] += 1
        if count is None or seen[question.category] <= count:
            kept.append(question)
    return kept


def id_of(record: Mapping[str, object], place: str) -> int:
    """A record's `question_id`; raises EvaluationError where there is none."""
    identity = record.get("question_id")
    if isinstance(identity, bool) or not isinstance(identity, int):
        told = f"question_id is {identity!r}" if "question_id" in record else "no `question_id`"
        raise EvaluationError(f"{place}: {told}, and it is a whole number; it has {', '.join(record) or 'nothing'}")
    return identity


def two_turns(turns: object, place: str) -> tuple[str, str]:
    """Raises EvaluationError for other than two texts."""
    match turns:
        case [str(one), str(two)]:
            records.refuse_surrogates((one, two), place, EvaluationError)
            return one, two
        case list():
            raise EvaluationError(f"{place}: MT-Bench has two turns, texts; `turns` is a list of {len(turns)}")
        case _:
            raise EvaluationError(f"{place}: `turns` is {records.kind(turns)}, not a list of two texts")


def _question(record: object, place: str) -> Question:
    if not isinstance(record, Mapping):
        raise EvaluationError(f"{place}: not an object but {records.kind(record)}")
    identity = id_of(record, place)
    category = record.get("category")
    if not isinstance(category, str) or not category:
        raise EvaluationError(f"{place}: question {identity} has no `category`; it has {', '.join(record)}")
    return Question(identity, category, two_turns(record.get("turns"), f"{place}: question {identity}"))
