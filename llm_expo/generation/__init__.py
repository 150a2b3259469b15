"""Prompts to replies of theta(alpha). Knows weights, nothing of rewards."""

from typing import TYPE_CHECKING, Any

from llm_expo.generation.engine import Engine, Json, Reply, Request
from llm_expo.generation.prompts import DEFAULT_PROMPTS, Prompt, read_prompts
from llm_expo.generation.sampling import Sampling
from llm_expo.records import Message

if TYPE_CHECKING:
    from llm_expo.generation.transformers_engine import TransformersEngine

__all__ = [
    "DEFAULT_PROMPTS",
    "Engine",
    "Json",
    "Message",
    "Prompt",
    "Reply",
    "Request",
    "Sampling",
    "TransformersEngine",
    "read_prompts",
]


def __getattr__(name: str) -> Any:
    """Import the engine, and with it torch and transformers, only when somebody asks for it."""
    if name == "TransformersEngine":
        from llm_expo.generation.transformers_engine import TransformersEngine

        return TransformersEngine
    raise AttributeError(name)
