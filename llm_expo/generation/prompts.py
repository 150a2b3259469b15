"""Prompts: where they come from and what makes one usable. Knows nothing of models or templates."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_expo import records
from llm_expo.errors import PromptError
from llm_expo.records import Message

logger = logging.getLogger(__name__)

DEFAULT_PROMPTS = Path(__file__).with_name("prompts.jsonl")
"""320 diverse prompts written for this project; what a search uses when none are given."""


@dataclass(frozen=True)
class Prompt:
    """One conversation that waits for a reply; the last message is the user's."""

    id: str
    messages: tuple[Message, ...]


def read_prompts(source: str | Path | None = None) -> list[Prompt]:
    """Prompts of a JSONL file, of a hub data set (`hub:DATASET:SPLIT[:FIELD]`), or the project's own.

    A record holds `prompt` (a string, or messages) or `messages`, and optionally `id`; without one, the id is a hash
    of the messages. A prompt that stands twice is used once, and the log says so.

    Raises:
        PromptError: naming the file and line, or the data set and row.
    """
    if source is None:
        source = DEFAULT_PROMPTS
    if isinstance(source, str) and source.startswith("hub:"):
        return _unique(_from_hub(source), source)
    found = records.from_jsonl(Path(source), PromptError)
    return _unique(((place, _prompt(record, place)) for place, record in found), str(source))


def _unique(found: Iterable[tuple[str, Prompt]], source: str) -> list[Prompt]:
    """Each prompt once; `found` comes with the place that an error would name."""
    places: dict[str, str] = {}
    by_messages: dict[str, Prompt] = {}
    repeated = 0
    for place, prompt in found:
        key = json.dumps(prompt.messages, sort_keys=True)
        if key in by_messages:
            repeated += 1
            continue
        if prompt.id in places:
            raise PromptError(f"{place}: the id {prompt.id!r} already stands at {places[prompt.id]} with another text")
        places[prompt.id] = place
        by_messages[key] = prompt
    if not by_messages:
        raise PromptError(f"{source}: holds no prompts")
    if repeated:
        logger.warning("%s: %d prompts stand there more than once; each is used once", source, repeated)
    return list(by_messages.values())


def _from_hub(source: str) -> Iterator[tuple[str, Prompt]]:
    parts = source.split(":")
    if len(parts) not in (3, 4) or not all(parts):
        raise PromptError(f"{source}: write hub:DATASET:SPLIT or hub:DATASET:SPLIT:FIELD")
    name, split, field = parts[1], parts[2], parts[3] if len(parts) == 4 else None
    rows = records.from_hub(source, name, split, "hub-prompts", PromptError)
    if field is not None and field not in rows.column_names:
        raise PromptError(f"{source}: has no field {field!r}; it has {', '.join(rows.column_names)}")
    for number, row in enumerate(rows):
        place = f"{source}, row {number}"
        yield place, _prompt({"prompt": row[field]} if field else row, place)


def _prompt(record: object, place: str) -> Prompt:
    if not isinstance(record, Mapping):
        raise PromptError(f'{place}: a record is an object such as {{"prompt": "..."}}, this is {records.kind(record)}')
    # Preference data sets hold both: `prompt` is the question, `messages` the question with a reply.
    content = record.get("messages") if record.get("prompt") is None else record["prompt"]
    if content is None:
        fields = ", ".join(map(str, record)) or "no fields"
        raise PromptError(f"{place}: neither `prompt` nor `messages`; it has {fields}")
    checked = tuple(records.conversation(content, "the prompt", place, PromptError, strict=True))
    if checked[-1]["role"] != "user":
        raise PromptError(f"{place}: the last message is the {checked[-1]['role']}'s; a prompt ends with the user's")
    identity = record.get("id")
    if identity is None:
        identity = hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest()[:12]
    elif not isinstance(identity, str | int) or isinstance(identity, bool):
        raise PromptError(f"{place}: the id is {records.kind(identity)}, not a text or a whole number")
    prompt = Prompt(str(identity), checked)
    texts = (text for message in checked for text in message.values())
    records.refuse_surrogates((prompt.id, *texts), place, PromptError)
    return prompt
