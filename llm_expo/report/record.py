"""An outcome as JSON, for programs."""

from dataclasses import asdict
from typing import Any

import llm_expo
from llm_expo.search.outcome import Outcome


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome in JSON's types: rows and intervals as objects, paths as text."""
    record = asdict(outcome)
    for name in ("study", "theta0", "theta1", "model"):
        record[name] = None if record[name] is None else str(record[name])
    record["verdict"] = str(outcome.verdict)
    record["costs"] = {
        activity: {"seconds": seconds, "tokens": tokens} for activity, (seconds, tokens) in outcome.costs.items()
    }
    record["examples"] = [
        {
            "prompt": {"id": example.prompt.id, "messages": list(example.prompt.messages)},
            "replies": {repr(alpha): text for alpha, text in example.replies.items()},
        }
        for example in outcome.examples
    ]
    return {"llm_expo": llm_expo.__version__, **record}
