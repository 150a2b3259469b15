"""Records of people's own making: JSONL files and data sets of the hub, one by one, each with the place to name.

Knows the form of a conversation, and not what its readers make of a record. They say which error is theirs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_expo.errors import ExpoError, MissingExtraError

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}, as chat templates take it."""


def from_jsonl(path: Path, error: type[ExpoError]) -> Iterator[tuple[str, Any]]:
    """(place, record) of every line that is not blank; raises `error` for what is not UTF-8 or not JSON."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                try:
                    yield place, json.loads(line)
                except (ValueError, RecursionError) as cause:
                    raise error(f"{place}: not JSON: {cause}") from None
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be read as UTF-8 text: {cause}") from None


def from_hub(source: str, name: str, split: str, extra: str, error: type[ExpoError]) -> Any:
    """The split of a data set, a `datasets.Dataset`; `source` is how the user named it.

    Raises `error` if it cannot be loaded, MissingExtraError (of `extra`) without the package.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", extra) from None
    try:
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as cause:
        raise error(f"{source}: cannot be loaded: {cause}") from None


def conversation(
    value: object,
    what: str,
    place: str,
    error: type[ExpoError],
    *,
    speaker: str = "user",
    blank_end: bool = False,
    strict: bool = False,
) -> list[Message]:
    """`value` as messages, each of a role and a text; a text alone is the `speaker`'s.

    what: the name of `value`, for `error`. blank_end: the last message may lack a text, for the caller to judge.
    strict: nothing but role and content may be there (null counts as nothing), since templates make text of other keys.
    """
    if isinstance(value, str):
        value = [{"role": speaker, "content": value}]
    if not isinstance(value, list) or not value:
        raise error(f"{place}: {what} is {kind(value)}, not a text or a list of messages")
    messages = []
    for number, each in enumerate(value, start=1):
        if not isinstance(each, Mapping) or not isinstance(role := each.get("role"), str):
            raise error(f'{place}: a message is {{"role": ..., "content": ...}}')
        content = each.get("content")
        blank = isinstance(content, str) and not content.strip()
        if not isinstance(content, str) or (blank and not (blank_end and number == len(value))):
            raise error(f"{place}: the {role}'s message has no text")
        more = [key for key, given in each.items() if key not in ("role", "content") and given is not None]
        if strict and more:
            raise error(
                f"{place}: the {role}'s message holds {', '.join(map(repr, more))}; only its role and content would be "
                f"passed on: leave the rest out"
            )
        messages.append({"role": role, "content": content})
    return messages


def refuse_surrogates(texts: Iterable[str], place: str, error: type[ExpoError]) -> None:
    """JSON can spell half of a character; tokenizers, hashes and files cannot take it."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise error(f"{place}: holds half of a character (a lone surrogate), which is no text") from None


def kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")
