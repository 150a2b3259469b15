"""A study: every fact of one search in one SQLite file, so that it can be killed at any point and goes on.

Holds prompts, completions, rewards and costs, and the settings they were made with. Decides nothing: which alpha
comes next and what the rewards mean is said elsewhere, from these rows alone.
"""

import json
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_expo.errors import PromptError, StudyError
from llm_expo.generation import Json, Message, Prompt, Reply
from llm_expo.search.database import begun, opened, transaction

logger = logging.getLogger(__name__)

Part = Literal["search", "confirm"]

_SPLIT_SEED = 0


@dataclass(frozen=True)
class Enrolled:
    """A prompt in a study, with the token ids that every alpha is asked with."""

    prompt: Prompt
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """One reply in a study."""

    alpha: float
    enrolled: Enrolled
    sample: int
    reply: Reply

    @property
    def conversation(self) -> list[Message]:
        """What a scorer judges: the prompt's messages and the reply."""
        return [*self.enrolled.prompt.messages, {"role": "assistant", "content": self.reply.text}]


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

    def settle(self, settings: Mapping[str, Json], environment: Mapping[str, Json]) -> None:
        """Record what the study's rows depend on, or hold a resumed run to it.

        `settings` have to be equal; a changed `environment` (versions, device) is logged, since replies may then
        differ in places from those of an uninterrupted study. A study without any reply yet takes new settings: what
        made the first batch fail (memory, a prompt too long) can be changed.
        """
        if not begun(self._database):
            with transaction(self._database):
                self._database.execute("DELETE FROM settings")
                self._database.executemany(
                    "INSERT INTO settings VALUES (?, ?)",
                    [(name, json.dumps(value)) for name, value in {**settings, **environment}.items()],
                )
            return
        recorded = {
            name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM settings")
        }
        for name, value in settings.items():
            if recorded.get(name) != value:
                raise StudyError(
                    f"{self.folder}: {name} was {_shown(recorded.get(name))} when the study began and is now "
                    f"{_shown(value)}; give the old value, or another --out"
                )
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
        batch_size: int,
        extend: bool,
    ) -> None:
        """Split the prompts and fix their batches, or check that the study already holds just these.

        With `extend`, prompts that the study does not hold are added in batches of their own, split alike.
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
        batch = 1 + max((at for part in ("search", "confirm") for at in self._batches(part)), default=-1) if held else 0
        rows: list[tuple[str, str, str, Part, int, int, int]] = []
        for part, chosen in parts:
            # Prompts of one length together waste the least padding; the longest first, so that what does not fit
            # into memory fails at once.
            encoded = [Enrolled(prompt, tokens) for prompt, tokens in zip(chosen, encode(chosen), strict=True)]
            encoded.sort(key=lambda each: (len(each.tokens), each.prompt.id), reverse=True)
            for start in range(0, len(encoded), batch_size):
                for place, each in enumerate(encoded[start : start + batch_size]):
                    texts_of_row = (json.dumps(each.prompt.messages), json.dumps(each.tokens))
                    rows.append((each.prompt.id, *texts_of_row, part, batch, place, extension))
                batch += 1
        with transaction(self._database):
            if not held:
                self._database.execute("DELETE FROM prompts")
            self._database.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def prompts(self, part: Part) -> list[Prompt]:
        """The prompts of a part, in the order in which `rewards` and `replies` come."""
        return [each.prompt for batch in self._batches(part).values() for each in batch]

    def extensions(self) -> int:
        """How often prompts were added since the study began."""
        return int(self._database.execute("SELECT max(extension) FROM prompts").fetchone()[0])

    def unanswered(self, alpha: float, part: Part, sample: int = 0) -> list[list[Enrolled]]:
        """The batches of a part that theta(alpha) has not answered. A batch is answered whole or not at all."""
        answered = {
            batch
            for (batch,) in self._database.execute(
                "SELECT DISTINCT batch FROM completions JOIN prompts ON id = prompt WHERE alpha = ? AND sample = ?",
                (alpha, sample),
            )
        }
        return [enrolled for batch, enrolled in self._batches(part).items() if batch not in answered]

    # -- completions and rewards ---------------------------------------------------------------------------------

    def add_replies(
        self, alpha: float, batch: Sequence[Enrolled], replies: Sequence[Reply], seconds: float, sample: int = 0
    ) -> None:
        rows = [
            (alpha, each.prompt.id, sample, reply.text, json.dumps(reply.tokens), reply.truncated)
            for each, reply in zip(batch, replies, strict=True)
        ]
        with transaction(self._database):
            self._database.executemany("INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._spend("generate", alpha, seconds, sum(len(reply.tokens) for reply in replies))

    def unscored(self, scorer: str, alpha: float, part: Part) -> list[list[Completion]]:
        """The completions of a part at alpha that the scorer has not scored, by batch."""
        batches = []
        for batch, enrolled in self._batches(part).items():
            by_id = {each.prompt.id: each for each in enrolled}
            rows = self._database.execute(
                """SELECT prompt, sample, text, completions.tokens, truncated
                   FROM completions JOIN prompts ON id = prompt
                   WHERE alpha = ? AND batch = ? AND NOT EXISTS (
                       SELECT 1 FROM rewards WHERE rewards.alpha = completions.alpha AND scorer = ?
                       AND rewards.prompt = completions.prompt AND rewards.sample = completions.sample)
                   ORDER BY place, sample""",
                (alpha, batch, scorer),
            ).fetchall()
            if rows:
                batches.append(
                    [
                        Completion(alpha, by_id[prompt], sample, _reply(text, tokens, truncated))
                        for prompt, sample, text, tokens, truncated in rows
                    ]
                )
        return batches

    def add_rewards(
        self, scorer: str, completions: Sequence[Completion], rewards: Sequence[float], seconds: float
    ) -> None:
        rows = [
            (completion.alpha, completion.enrolled.prompt.id, completion.sample, scorer, reward)
            for completion, reward in zip(completions, rewards, strict=True)
        ]
        with transaction(self._database):
            self._database.executemany("INSERT INTO rewards VALUES (?, ?, ?, ?, ?)", rows)
            self._spend(f"score {scorer}", completions[0].alpha, seconds, 0)

    def rewards(self, scorer: str, alpha: float, part: Part) -> list[float]:
        """One reward a prompt, in the order of `prompts`. Raises KeyError while any is missing."""
        rows = dict(
            self._database.execute(
                """SELECT prompt, avg(reward) FROM rewards JOIN prompts ON id = prompt
                   WHERE scorer = ? AND alpha = ? AND part = ? GROUP BY prompt""",
                (scorer, alpha, part),
            )
        )
        return [rows[prompt.id] for prompt in self.prompts(part)]

    def replies(self, alpha: float, part: Part) -> list[Reply]:
        """The replies of theta(alpha), in the order of `prompts`."""
        rows = self._database.execute(
            """SELECT text, completions.tokens, truncated FROM completions JOIN prompts ON id = prompt
               WHERE alpha = ? AND part = ? ORDER BY batch, place, sample""",
            (alpha, part),
        )
        return [_reply(text, tokens, truncated) for text, tokens, truncated in rows]

    def costs(self) -> dict[str, tuple[float, int]]:
        """Seconds and tokens of each activity, over all runs of this study; work that was cut off is not counted."""
        rows = self._database.execute("SELECT activity, sum(seconds), sum(tokens) FROM costs GROUP BY activity")
        return {activity: (seconds, tokens) for activity, seconds, tokens in rows}

    # ------------------------------------------------------------------------------------------------------------

    def _spend(self, activity: str, alpha: float, seconds: float, tokens: int) -> None:
        self._database.execute("INSERT INTO costs VALUES (?, ?, ?, ?)", (activity, alpha, seconds, tokens))

    def _prompts_by_extension(self) -> list[tuple[int, Prompt]]:
        rows = self._database.execute("SELECT extension, id, messages FROM prompts ORDER BY batch, place")
        return [(extension, _prompt(identity, messages)) for extension, identity, messages in rows]

    def _batches(self, part: Part) -> dict[int, list[Enrolled]]:
        batches: dict[int, list[Enrolled]] = {}
        rows = self._database.execute(
            "SELECT batch, id, messages, tokens FROM prompts WHERE part = ? ORDER BY batch, place", (part,)
        )
        for batch, identity, messages, tokens in rows:
            batches.setdefault(batch, []).append(Enrolled(_prompt(identity, messages), tuple(json.loads(tokens))))
        return batches


def _prompt(identity: str, messages: str) -> Prompt:
    return Prompt(identity, tuple(json.loads(messages)))


def _reply(text: str, tokens: str, truncated: int) -> Reply:
    return Reply(text, tuple(json.loads(tokens)), bool(truncated))


def _shown(value: object) -> str:
    return "not recorded" if value is None else str(value)
