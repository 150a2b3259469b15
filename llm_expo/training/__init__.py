"""recipe -> TRL -> checkpoint, for pairs of one's own. Knows checkpoints and weights, nothing of search."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_expo.training.recipe import Lora, Recipe, read_recipe
    from llm_expo.training.run import Trained, train

_WHERE = {"Lora": "recipe", "Recipe": "recipe", "read_recipe": "recipe", "Trained": "run", "train": "run"}


def __getattr__(name: str):
    import importlib
    if name in _WHERE:
        return getattr(importlib.import_module(f"llm_expo.training.{_WHERE[name]}"), name)
    raise AttributeError(name)
