"""Replies of one model that are kept as they come, so that a killed run goes on. Knows no yardstick."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import load_lines
from llm_expo.generation import Engine, Prompt, Reply, Request

Watch = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and how many are wanted."""

_NOISE = "evaluation"


def kept_replies(
    path: Path,
    engine: Engine,
    prompts: Sequence[Prompt],
    batch_size: int,
    watch: Watch,
) -> dict[str, Reply]:
    """The reply to each prompt by its id; those that `path` holds are not made again.

    Args:
        path: a JSONL file: the engine's settings, then a line for each reply. It may hold replies to other prompts.

    Raises:
        EvaluationError: the file was made with other settings, or its prompt of an id was another one.
    """
    # Messages are compared, not tokens: a template may hold today's date.
    asked = {prompt.id: _digest(prompt) for prompt in prompts}
    found = _read(path, engine.settings, asked)
    missing = [prompt for prompt in prompts if prompt.id not in found]
    watch("replies", len(prompts) - len(missing), len(prompts))
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _append(path, [{"settings": dict(engine.settings)}])
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        for batch, replies in zip(batches, engine.generate(0.0, map(partial(_requests, engine), batches)), strict=True):
            new = {prompt.id: reply for prompt, reply in zip(batch, replies, strict=True)}
            _append(path, [{"id": id_, "asked": asked[id_], **asdict(reply)} for id_, reply in new.items()])
            found |= new
            watch("replies", sum(prompt.id in found for prompt in prompts), len(prompts))
    return {prompt.id: found[prompt.id] for prompt in prompts}


def _requests(engine: Engine, batch: Sequence[Prompt]) -> list[Request]:
    return [Request(prompt.id, tokens, _NOISE) for prompt, tokens in zip(batch, engine.encode(batch), strict=True)]


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(prompt.messages, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, settings: Mapping[str, object], asked: Mapping[str, str]) -> dict[str, Reply]:
    if not path.exists():
        return {}
    found = {}
    for number, record in enumerate(load_lines(path), start=1):
        if "settings" in record:
            _hold(path, record["settings"], settings)
            continue
        if asked.get(record["id"], record["asked"]) != record["asked"]:
            raise EvaluationError(
                f"{path}, line {number}: the prompt {record['id']!r} was another one then; take another --out"
            )
        found[record["id"]] = Reply(record["text"], tuple(record["tokens"]), record["truncated"])
    return found


def _hold(path: Path, then: Mapping[str, object], now: Mapping[str, object]) -> None:
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise EvaluationError(
                f"{path}: its replies were made with {name} {then.get(name)}, and now it is {now.get(name)}; "
                "go on with the old setting, or take another --out"
            )


def _append(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())
