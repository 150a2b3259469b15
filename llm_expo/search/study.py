"""A study: every fact of one search in one SQLite file, so that it can be killed at any point and goes on.

Holds prompts, completions, what scorers and models made of these, what each took, and the settings they were made with.
Decides nothing: which alpha comes next and what the rewards mean is said elsewhere, from these rows alone.
"""

import json
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from llm_expo.errors import PromptError, StudyError
from llm_expo.generation import Json, Prompt, Reply
from llm_expo.search.database import begun, opened, transaction

logger = logging.getLogger(__name__)

Part = Literal["search", "confirm"]

_SPLIT_SEED = 0


@dataclass(frozen=True)
class Enrolled:
    """A prompt in a study, with the token ids that every alpha is asked with."""

    prompt: Prompt
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spending:
    """What replies, and what was made of them, have taken; seconds over all runs, work that was cut off not counted."""

    completions: int = 0
    tokens: int = 0
    generating: float = 0.0
    scoring: float = 0.0
    reading: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class Study:
    """An open study; `Study.open` is the way in. All writes of a method are one transaction."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder = folder
        self._database = database

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["Study"]:
        """Begin a study in a new or empty folder, or go on with the one that is there.

        Raises:
            StudyError: the folder holds something else, or another process has the study open.
        """
        with opened(folder) as database:
            yield cls(folder, database)

    # -- settings ------------------------------------------------------------------------------------------------

    def settle(
        self, settings: Mapping[str, Json], environment: Mapping[str, Json], way: Mapping[str, Json] | None = None
    ) -> None:
        """Record what the study's rows depend on, or hold a resumed run to it.

        `settings` have to be equal; a changed `environment` (versions, device) is logged, since replies may then
        differ in places from those of an uninterrupted study. `way`, on which depends only which rows there are, may
        change as long as no confirm prompt was answered: a choice made another way would look at these again. A study
        without any reply yet takes new settings: what made the first batch fail (memory, a prompt too long) can be
        changed.
        """
        way = way or {}
        if not begun(self._database):
            with transaction(self._database):
                self._database.execute("DELETE FROM settings")
                self._database.executemany(
                    "INSERT INTO settings VALUES (?, ?)",
                    [(name, json.dumps(value)) for name, value in {**settings, **way, **environment}.items()],
                )
            return
        recorded = {
            name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM settings")
        }
        changed = {name: value for name, value in way.items() if recorded.get(name) != value}
        for name, value in (settings if self._is_open() else {**settings, **way}).items():
            if recorded.get(name) != value:
                raise StudyError(
                    f"{self.folder}: {name} was {_shown(recorded.get(name))} when the study began and is now "
                    f"{_shown(value)}; give the old value, or another --out"
                )
        for name, value in changed.items():
            logger.info("%s: %s was %s and is now %s", self.folder, name, _shown(recorded.get(name)), _shown(value))
            self._database.execute("UPDATE settings SET value = ? WHERE name = ?", (json.dumps(value), name))
        for name, value in environment.items():
            if recorded.get(name) != value:
                logger.warning(
                    "%s: %s was %s when the study began and is now %s; new replies may differ from those that an "
                    "uninterrupted study would hold",
                    self.folder,
                    name,
                    _shown(recorded.get(name)),
                    _shown(value),
                )

    # -- prompts -------------------------------------------------------------------------------------------------

    def enrol(
        self,
        prompts: Sequence[Prompt],
        encode: Callable[[Sequence[Prompt]], Sequence[tuple[int, ...]]],
        *,
        confirm_share: float,
        extend: bool,
    ) -> None:
        """Split the prompts and put them into an order, or check that the study already holds just these.

        With `extend`, prompts that the study does not hold are added behind the others, split alike.
        """
        held = self._prompts_by_extension() if begun(self._database) else []
        known = {prompt.id: prompt for _, prompt in held}
        for prompt in prompts:
            if prompt.id in known and known[prompt.id] != prompt:
                raise PromptError(f"prompt {prompt.id}: stands in the study with another text; give it another id")
        # By their texts: one text under two ids could come to stand on both sides.
        held_texts = {json.dumps(prompt.messages) for prompt in known.values()}
        by_text = {json.dumps(prompt.messages): prompt for prompt in reversed(prompts)}
        new = [prompt for text, prompt in by_text.items() if text not in held_texts]
        if held and not extend:
            given = {prompt.id for prompt in prompts}
            stages = range(max(extension for extension, _ in held) + 1)
            if all(given != {prompt.id for at, prompt in held if at <= stage} for stage in stages):
                raise StudyError(
                    f"{self.folder}: the study has {len(held)} prompts; of the {len(prompts)} given now, {len(new)} "
                    f"are not among them; give the same prompts, or --extend to add new ones"
                )
            return
        if held and not new:
            return
        new.sort(key=lambda prompt: prompt.id)  # the split is that of the set, in whatever order it was given
        random.Random(_SPLIT_SEED).shuffle(new)
        confirm = round(confirm_share * len(new))
        parts: tuple[tuple[Part, list[Prompt]], ...] = (("confirm", new[:confirm]), ("search", new[confirm:]))
        if not held and min(len(chosen) for _, chosen in parts) < 2:
            raise PromptError(
                f"{len(new)} prompts are too few: {len(new) - confirm} to search on and {confirm} to confirm on; "
                f"each part needs 2 at the least, and some dozens to tell a gain from noise"
            )
        extension = 1 + max((extension for extension, _ in held), default=-1)
        rows: list[tuple[str, str, str, Part, int, int]] = []
        for part, chosen in parts:
            enrolled = [Enrolled(prompt, tokens) for prompt, tokens in zip(chosen, encode(chosen), strict=True)]
            if part == "confirm":
                # Prompts of one length together waste the least padding. Those of the search stay in random order: the
                # first of them have to stand for the rest.
                enrolled.sort(key=lambda each: (len(each.tokens), each.prompt.id), reverse=True)
            for each in enrolled:
                texts_of_row = (json.dumps(each.prompt.messages), json.dumps(each.tokens))
                rows.append((each.prompt.id, *texts_of_row, part, len(held) + len(rows), extension))
        with transaction(self._database):
            if not held:
                self._database.execute("DELETE FROM prompts")
            self._database.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?, ?)", rows)

    def enrolled(self, part: Part) -> list[Enrolled]:
        """The prompts of a part, in the order in which they are answered."""
        rows = self._database.execute("SELECT id, messages, tokens FROM prompts WHERE part = ? ORDER BY place", (part,))
        return [Enrolled(_prompt(identity, messages), tuple(json.loads(tokens))) for identity, messages, tokens in rows]

    def look(self, alpha: float) -> int:
        """Note that the confirmation of theta(alpha) is seen; how many others were seen before it.

        The same alpha on the same prompts is the same look, however often.
        """
        look = (alpha, len(self.enrolled("confirm")))
        with transaction(self._database):
            self._database.execute("INSERT OR IGNORE INTO looks (alpha, prompts) VALUES (?, ?)", look)
        earlier = "SELECT count(*) FROM looks WHERE place < (SELECT place FROM looks WHERE (alpha, prompts) = (?, ?))"
        return int(self._database.execute(earlier, look).fetchone()[0])

    # -- what was made: by prompt id, of both parts ---------------------------------------------------------------

    def replies(self, alpha: float) -> dict[str, Reply]:
        rows = self._database.execute(
            "SELECT prompt, text, tokens, truncated FROM completions WHERE alpha = ?", (alpha,)
        )
        return {
            prompt: Reply(text, tuple(json.loads(tokens)), bool(truncated)) for prompt, text, tokens, truncated in rows
        }

    def add_replies(self, alpha: float, batch: Sequence[Enrolled], replies: Sequence[Reply], seconds: float) -> None:
        self._insert(
            "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?)",
            [
                (alpha, each.prompt.id, reply.text, json.dumps(reply.tokens), reply.truncated)
                for each, reply in zip(batch, replies, strict=True)
            ],
            seconds,
        )

    def rewards(self, scorer: str, alpha: float) -> dict[str, float]:
        return dict(
            self._database.execute(
                "SELECT prompt, reward FROM rewards WHERE scorer = ? AND alpha = ?", (scorer, alpha)
            ).fetchall()
        )

    def add_rewards(self, scorer: str, rewards: Sequence[tuple[float, str, float]], seconds: float) -> None:
        """`rewards` are (alpha, prompt id, reward)."""
        rows = [(alpha, prompt, scorer, reward) for alpha, prompt, reward in rewards]
        self._insert("INSERT INTO rewards VALUES (?, ?, ?, ?, ?)", rows, seconds)

    def log_probabilities(self, alpha: float, under: float) -> dict[str, float]:
        """Of the replies of theta(alpha) under theta(under): means over their tokens, nats."""
        return dict(
            self._database.execute(
                "SELECT prompt, value FROM log_probabilities WHERE alpha = ? AND under = ?", (alpha, under)
            ).fetchall()
        )

    def add_log_probabilities(
        self, alpha: float, under: float, prompts: Sequence[str], values: Sequence[float], seconds: float
    ) -> None:
        rows = [(alpha, prompt, under, value) for prompt, value in zip(prompts, values, strict=True)]
        self._insert("INSERT INTO log_probabilities VALUES (?, ?, ?, ?, ?)", rows, seconds)

    # -- costs ---------------------------------------------------------------------------------------------------

    def add_move(self, seconds: float) -> None:
        self._insert("INSERT INTO moves VALUES (?)", [()], seconds)

    def add_turn(self, seconds: float) -> None:
        self._insert("INSERT INTO turns VALUES (?)", [()], seconds)

    def turns(self) -> list[float]:
        """Seconds that the engine took each time to leave the device to a scorer, and to come back, in their order."""
        return [seconds for (seconds,) in self._database.execute("SELECT seconds FROM turns ORDER BY rowid")]

    def moves(self) -> list[float]:
        """Seconds that each move of the weights took, in their order, the first one's loading included."""
        return [seconds for (seconds,) in self._database.execute("SELECT seconds FROM moves ORDER BY rowid")]

    def spent(self, alpha: float, readers: Sequence[float] | None = None) -> dict[str, Spending]:
        """By prompt id, on the replies of theta(alpha); of those that read them, on the alphas in `readers` alone."""
        rows = self._database.execute(
            """SELECT prompt, 1, json_array_length(tokens), seconds,
                      (SELECT total(seconds) FROM rewards AS r
                       WHERE r.alpha = c.alpha AND r.prompt = c.prompt),
                      (SELECT total(seconds) FROM log_probabilities AS p
                       WHERE p.alpha = c.alpha AND p.prompt = c.prompt
                       AND (?1 IS NULL OR p.under IN (SELECT value FROM json_each(?1))))
               FROM completions AS c WHERE alpha = ?2""",
            (None if readers is None else json.dumps(readers), alpha),
        )
        return {prompt: Spending(*spent) for prompt, *spent in rows}

    def alphas(self) -> list[float]:
        """Those that have a reply, ascending."""
        return [alpha for (alpha,) in self._database.execute("SELECT DISTINCT alpha FROM completions ORDER BY alpha")]

    # ------------------------------------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        """Whether no confirm prompt was answered yet."""
        answered = "SELECT EXISTS (SELECT 1 FROM completions JOIN prompts ON id = prompt WHERE part = 'confirm')"
        return not self._database.execute(answered).fetchone()[0]

    def _insert(self, statement: str, rows: Sequence[tuple[object, ...]], seconds: float) -> None:
        with transaction(self._database):
            self._database.executemany(statement, [(*row, seconds / len(rows)) for row in rows])

    def _prompts_by_extension(self) -> list[tuple[int, Prompt]]:
        rows = self._database.execute("SELECT extension, id, messages FROM prompts ORDER BY place")
        return [(extension, _prompt(identity, messages)) for extension, identity, messages in rows]


def _prompt(identity: str, messages: str) -> Prompt:
    return Prompt(identity, tuple(json.loads(messages)))


def _shown(value: object) -> str:
    return "not recorded" if value is None else str(value)
