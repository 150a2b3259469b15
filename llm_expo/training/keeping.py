"""A trainer's state becomes a model folder: the trained weights, theta0's files beside them, and the record of the run.

The folder is written as `apply` writes one: whole or not at all.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.hub import Located
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, ADAPTER_NAME, CONFIG_NAME, INDEX_NAME
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME, side_file, side_files
from llm_expo.errors import TrainingError
from llm_expo.training.events import Kept
from llm_expo.training.recipe import Recipe
from llm_expo.weights import Direction, plan, write
from llm_expo.weights.adapters import plan_adapter
from llm_expo.weights.partial import created, partial_folder


def keep(state: Path, step: int, out: Path, recipe: Recipe, theta0: Checkpoint, record: Mapping[str, Any]) -> Kept:
    """Make the model folder `out` of TRL's `state` at `step`, as `recipe.save` says.

    record: what llm_expo.json is to say of it.

    Raises TrainingError for weights that are not numbers, or a state that holds no whole model; OutputError.
    """
    if (state / ADAPTER_NAME).exists():
        write(plan_adapter(theta0, Adapter.open(Located(state)), 0.0, None), out, record=record)
        return Kept(out, step, ())
    with _staged(state, recipe, theta0) as staged:
        if recipe.algorithm == "reward":  # whose head theta0 lacks, so that there is no direction between the two
            _copy(staged, out, record)
            return Kept(out, step, ())
        trained = Checkpoint.open(Located(staged))
        dtype = "bfloat16" if recipe.save == "bfloat16" else "float32"
        write(plan(Direction(theta0, trained), 0.0, dtype=dtype), out, record=record)
    return Kept(out, step, ())


def _copy(staged: Path, out: Path, record: Mapping[str, Any]) -> None:
    files = [path for path in staged.rglob("*") if not path.is_dir()]
    with partial_folder(out, sum(path.stat().st_size for path in files)) as partial:
        for path in files:
            target = partial.folder / path.relative_to(staged)
            target.parent.mkdir(exist_ok=True)
            with created(target) as fd, path.open("rb") as source, open(fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(source, copy)
        with created(partial.folder / PROVENANCE_NAME) as fd, open(fd, "w", encoding="utf-8", closefd=False) as text:
            json.dump(record, text, indent=2)
            text.write("\n")


@contextmanager
def _staged(state: Path, recipe: Recipe, theta0: Checkpoint) -> Iterator[Path]:
    """A folder of links: TRL's weights, theta0's tokenizer and templates, and a config.json that tells of float32.

    TRL writes a tokenizer, too, but as the trainer has changed it: with a padding token that theta0's lacks.
    """
    staged = state.with_name("model")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        weights = [*state.glob("model*.safetensors"), *state.glob(INDEX_NAME)]
        if not weights:
            raise TrainingError(
                f"{state}: the processes saved no whole model; in accelerate's settings, let FSDP save a "
                "FULL_STATE_DICT, and DeepSpeed gather the 16-bit weights"
            )
        for path in weights:
            (staged / path.name).symlink_to(path.resolve())
        for name in side_files(theta0.path):
            if name != CONFIG_NAME:
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).symlink_to((theta0.path / name).resolve())
        # A reward model's architecture is not theta0's.
        config = (state if recipe.algorithm == "reward" else theta0.path) / CONFIG_NAME
        with (staged / CONFIG_NAME).open("wb") as file:
            file.writelines(side_file(config, "float32"))
        yield staged
    finally:
        shutil.rmtree(staged)
