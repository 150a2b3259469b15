"""Scores made elsewhere, by people or by a program of one's own: a JSONL file, found by the text that was scored.

By text and not by alpha or prompt id, since text is what everybody has who scored something; one text has one reward,
whichever alpha wrote it. What is not scored yet is written out, ready to be filled in.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_expo import records
from llm_expo.errors import ScorerError
from llm_expo.scoring.scorer import LARGEST, Conversation, Progress, unwatched


class FileScorer:
    """Looks rewards up in a JSONL file.

    A record holds `reward`, a number, and what was scored: `messages` that end with the reply; or `prompt` (a text or
    messages) and `reply`; or `key`, as the list of missing ones has it. Other fields are left alone.

    Raises:
        ScorerError: naming the file and line.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self._path = path
        self._rewards: dict[str, float] = {}
        if not path.exists():
            raise ScorerError(f"{path}: no such file; begin with an empty one, and the first run lists what to score")
        places: dict[str, str] = {}
        for place, record in records.from_jsonl(path, ScorerError):
            key, reward = _scored(record, place)
            if self._rewards.setdefault(key, reward) != reward:
                raise ScorerError(
                    f"{place}: gives {reward:g} to what {places[key]} gives {self._rewards[key]:g}; leave one of them"
                )
            places.setdefault(key, place)

    def score(self, conversations: Sequence[Conversation], _: Progress = unwatched) -> list[float]:
        """The rewards in the file.

        Raises:
            ScorerError: some are missing; the conversations without one are then in FILE.missing.jsonl beside it.
        """
        keys = [conversation_key(conversation) for conversation in conversations]
        missing = {
            key: conversation for key, conversation in zip(keys, conversations, strict=True) if key not in self._rewards
        }
        if missing:
            listed = self._path.with_name(f"{self._path.stem}.missing.jsonl")
            lines = (json.dumps({"key": key, "messages": each}, ensure_ascii=False) for key, each in missing.items())
            try:
                listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            except OSError as error:
                raise ScorerError(f"{listed}: cannot be written: {error.strerror}") from None
            raise ScorerError(
                f"{self.name}: has no reward for {len(missing)} of {len(set(keys))} replies; they are in {listed}: add "
                f'"reward" to each line, append the lines to {self._path}, and run this again'
            )
        return [self._rewards[key] for key in keys]


def conversation_key(messages: Sequence[Mapping[str, str]]) -> str:
    """The key of a conversation with its reply: a hash of who said what."""
    said = [[message["role"], message["content"]] for message in messages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _scored(record: Any, place: str) -> tuple[str, float]:
    if not isinstance(record, Mapping):
        raise ScorerError(f"{place}: a record is an object with `reward`, this is {records.kind(record)}")
    reward = record.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        told = "has no `reward`" if reward is None else f"the reward is {records.kind(reward)}, not a number"
        raise ScorerError(f"{place}: {told}")
    if not abs(reward) < LARGEST:
        raise ScorerError(f"{place}: the reward is {reward}; a reward is a finite number")
    key = record.get("key")
    if isinstance(key, str):
        return key, float(reward)
    if record.get("messages") is not None:
        said = record["messages"]
        messages = records.conversation(said, "`messages`", place, ScorerError, blank_end=True, strict=True)
        if messages[-1]["role"] != "assistant":
            raise ScorerError(f"{place}: the last message is the {messages[-1]['role']}'s; it has to be the reply")
    elif record.get("prompt") is not None and isinstance(record.get("reply"), str):
        prompt = records.conversation(record["prompt"], "the prompt", place, ScorerError, strict=True)
        messages = [*prompt, {"role": "assistant", "content": record["reply"]}]
    else:
        fields = ", ".join(map(str, record))
        raise ScorerError(f"{place}: holds neither `messages`, nor `prompt` and `reply`, nor `key`; it has {fields}")
    return conversation_key(messages), float(reward)
