"""What an endpoint answered, in an SQLite file, so that no question is paid for twice. Knows nothing of networks.

An answer is committed as soon as it is there. Who asked is kept beside it, since a file may serve several.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_expo.errors import ScorerError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    asker TEXT NOT NULL,
    key TEXT NOT NULL,             -- hash of the question
    question TEXT NOT NULL,        -- JSON
    answer TEXT NOT NULL,          -- JSON
    tokens_in INTEGER,             -- as the endpoint counted them; NULL where it does not tell
    tokens_out INTEGER,
    PRIMARY KEY (asker, key)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked, and how it is to draw its answer.

    `messages` are (role, content). `alternatives`: how many of the likeliest tokens are wanted at each place of the
    answer, with their log-probabilities; 0 where none are.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    alternatives: int = 0

    @property
    def key(self) -> str:
        """What the question is found by: all of it, hashed."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @property
    def _json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, and what was likeliest in its place: (text, log-probability in nats) each."""

    text: str
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `tokens` is empty where the endpoint gives no log-probabilities, counts are None where it gives
    none.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    tokens_in: int | None = None
    tokens_out: int | None = None


class Answers:
    """The answers that one asker got; `Answers.open` is the way in."""

    def __init__(self, database: sqlite3.Connection, asker: str) -> None:
        self._database = database
        self._asker = asker

    @classmethod
    @contextmanager
    def open(cls, path: Path, asker: str) -> Iterator["Answers"]:
        """The answers in a file, which is made if there is none; `asker` names whatever they depend on beside the
        question: the model, above all.

        Raises:
            ScorerError: the file cannot be used.
        """
        try:
            database = sqlite3.connect(path, isolation_level=None, timeout=60.0)  # another process may be writing
            try:
                # As the study's own file: safe on network file systems, and an answer that was noted stays.
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("PRAGMA synchronous = FULL")
                database.execute(_SCHEMA)
                yield cls(database, asker)
            finally:
                database.close()
        except sqlite3.Error as error:
            raise ScorerError(f"{path}: answers cannot be kept there: {error}") from None

    def find(self, questions: Iterable[Question]) -> dict[str, Answer]:
        """Those of the questions that were answered before, by key."""
        found = {}
        for key in {question.key for question in questions}:
            row = self._database.execute(
                "SELECT answer, tokens_in, tokens_out FROM answers WHERE asker = ? AND key = ?", (self._asker, key)
            ).fetchone()
            if row is not None:
                found[key] = _answer(*row)
        return found

    def add(self, question: Question, answer: Answer) -> None:
        content = json.dumps({"text": answer.text, "tokens": [[each.text, each.likeliest] for each in answer.tokens]})
        asked = json.dumps(asdict(question), sort_keys=True)
        self._database.execute(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (self._asker, question.key, asked, content, answer.tokens_in, answer.tokens_out),
        )

    def all(self) -> list[Answer]:
        rows = self._database.execute(
            "SELECT answer, tokens_in, tokens_out FROM answers WHERE asker = ? ORDER BY key", (self._asker,)
        )
        return [_answer(*row) for row in rows]


def _answer(content: str, tokens_in: int | None, tokens_out: int | None) -> Answer:
    held = json.loads(content)
    tokens = tuple(
        Token(text, tuple((other, float(value)) for other, value in likeliest)) for text, likeliest in held["tokens"]
    )
    return Answer(held["text"], tokens, tokens_in, tokens_out)
