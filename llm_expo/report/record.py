"""An outcome, and what a search tells on its way, as JSON, for programs."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import llm_expo
from llm_expo.search.events import Event
from llm_expo.search.outcome import Outcome


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome in JSON's types: rows and intervals as objects, paths as text, what is not finite as null."""
    record: dict[str, Any] = _plain(asdict(outcome))
    record["costs"] = {
        activity: {"seconds": seconds, "tokens": tokens} for activity, (seconds, tokens) in outcome.costs.items()
    }
    return {
        "llm_expo": llm_expo.__version__,
        "verdict": str(outcome.verdict),
        "choice": outcome.choice,
        **record,
    }


def event_as_json(event: Event) -> dict[str, Any]:
    """One object, of whose kind `event` tells."""
    return {"event": type(event).__name__.lower(), **_plain(asdict(event))}


def _plain(value: object) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case StrEnum() | Path():
            return str(value)
    return value
