"""The SQLite file of a study: its tables, the one writer, whole transactions. Knows nothing of what the rows mean."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_expo.errors import ExpoError, StudyError

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE prompts (
    id TEXT PRIMARY KEY,
    messages TEXT NOT NULL,
    tokens TEXT NOT NULL,          -- JSON list of token ids, encoded once for good
    part TEXT NOT NULL CHECK (part IN ('search', 'confirm')),
    place INTEGER NOT NULL,        -- order in which they are answered
    extension INTEGER NOT NULL     -- 0: since the study began; n: added by the n-th --extend
) WITHOUT ROWID;
CREATE TABLE completions (
    alpha REAL NOT NULL,
    prompt TEXT NOT NULL REFERENCES prompts (id),
    text TEXT NOT NULL,
    tokens TEXT NOT NULL,          -- JSON list of token ids
    truncated INTEGER NOT NULL,
    seconds REAL NOT NULL,         -- its part of what its batch took; so in the tables below
    PRIMARY KEY (alpha, prompt)
) WITHOUT ROWID;
CREATE TABLE rewards (
    alpha REAL NOT NULL,
    prompt TEXT NOT NULL,
    scorer TEXT NOT NULL,
    reward REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (alpha, prompt, scorer),
    FOREIGN KEY (alpha, prompt) REFERENCES completions (alpha, prompt)
) WITHOUT ROWID;
CREATE TABLE log_probabilities (
    alpha REAL NOT NULL,           -- whose reply
    prompt TEXT NOT NULL,
    under REAL NOT NULL,           -- the alpha of the model that read it
    value REAL NOT NULL,           -- mean over its tokens, nats
    seconds REAL NOT NULL,
    PRIMARY KEY (alpha, prompt, under),
    FOREIGN KEY (alpha, prompt) REFERENCES completions (alpha, prompt)
) WITHOUT ROWID;
CREATE TABLE looks (
    place INTEGER PRIMARY KEY,
    alpha REAL NOT NULL,           -- the choice whose confirmation was seen
    prompts INTEGER NOT NULL,      -- how many there were to confirm on
    UNIQUE (alpha, prompts)
);
CREATE TABLE moves (seconds REAL NOT NULL);
CREATE TABLE turns (seconds REAL NOT NULL);
"""
_FORMAT = 4
_DATABASE, _LOCK = "study.sqlite", "study.lock"


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """The database in `folder`, made if there is none, with every other process kept from opening it.

    Raises:
        StudyError: the folder holds something else, the database is foreign, in use, or cannot be written.
    """
    path = folder / _DATABASE
    try:
        if (
            folder.exists()
            and not path.exists()
            and (not folder.is_dir() or any(inside.name != _LOCK for inside in folder.iterdir()))
        ):
            raise StudyError(f"{folder}: exists and is no study; give --out another name")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be used: {error.strerror}") from None
    with _locked(folder):
        try:
            database = sqlite3.connect(path, isolation_level=None)
            try:
                # A rollback journal: a write-ahead log needs shared memory, which network file systems lack.
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA foreign_keys = ON")
                _prepare(database, path)
                try:
                    yield database
                except ExpoError:
                    if not begun(database):
                        _remove(folder)  # what failed before the first reply leaves nothing behind
                    raise
            finally:
                database.close()
        except sqlite3.Error as error:
            raise StudyError(f"{path}: {error}; what was committed before is kept") from None


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All that is executed within is committed together, or none of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def begun(database: sqlite3.Connection) -> bool:
    """Whether the study has a reply yet; until then all else in it may change."""
    return bool(database.execute("SELECT EXISTS (SELECT 1 FROM completions)").fetchone()[0])


def _remove(folder: Path) -> None:
    for name in (_DATABASE, _LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else of the user's is in it
        folder.rmdir()


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        with transaction(database):
            for statement in _SCHEMA.split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_FORMAT}")
    elif version != _FORMAT:
        raise StudyError(f"{path}: has format {version}, this llm-expo reads {_FORMAT}; begin a new study")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock goes with this process, however it ends."""
    try:
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written to: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"{folder}: another process has this study open; wait for it, or stop it") from None
        except OSError as error:
            raise StudyError(f"{folder}: its file system does not lock files: {error.strerror}") from None
        yield
