"""What made a model: the record that a training leaves beside it, as llm_expo.json.

checkpoints/origins.py reads in it which theta0 the model belongs to. Knows no trainer and no data.
"""

import importlib.metadata
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import llm_expo
from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.origins import described

if TYPE_CHECKING:
    from llm_expo.training.recipe import Recipe

# Whose versions a training depends on, beside our own.
_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


def training_record(recipe: "Recipe", initial: Checkpoint, step: int, steps: int) -> dict[str, object]:
    """The record of a model that was saved at `step` of `steps`; nothing in it tells when it was made.

    recipe:  settled, the algorithm's default coefficients filled in.
    initial: theta0, as it was when the training began.

    Raises CheckpointError for a theta0 that cannot be read.
    """
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "tool": "llm-expo",
        "version": llm_expo.__version__,
        "method": "training",
        "training": {"step": step, "steps": steps, "recipe": asdict(recipe), "versions": versions},
        "initial": described(initial),
    }
