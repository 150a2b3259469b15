"""Model extrapolation (ExPO): a better language model from two checkpoints, without training.

The names below are what most programs need; the rooms (llm_expo.weights, llm_expo.search, ...) have the rest. Each is
loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_expo.checkpoints import Checkpoint as Checkpoint
    from llm_expo.weights import Direction as Direction
    from llm_expo.weights import Rounding as Rounding
    from llm_expo.weights import apply as apply
    from llm_expo.weights import compare as compare
    from llm_expo.weights import plan as plan
    from llm_expo.weights import write as write
    from llm_expo.weights.memory import extrapolate as extrapolate
    from llm_expo.weights.memory import extrapolate_model as extrapolate_model

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "llm_expo.checkpoints",
    **dict.fromkeys(("Direction", "Rounding", "apply", "compare", "plan", "write"), "llm_expo.weights"),
    **dict.fromkeys(("extrapolate", "extrapolate_model"), "llm_expo.weights.memory"),
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'llm_expo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
