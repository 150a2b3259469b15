"""A trainer's state becomes a model folder: the trained weights, theta0's files beside them, and the record of the run.

The folder is written as `apply` writes one: whole or not at all.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.hub import Located
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, ADAPTER_NAME, CONFIG_NAME, INDEX_NAME
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME, side_file, side_files
from llm_expo.errors import TrainingError
from llm_expo.training.events import Kept
from llm_expo.training.recipe import Recipe, Save
from llm_expo.weights import Direction, Stored, plan, share_kept, write
from llm_expo.weights.differences import plan_difference
from llm_expo.weights.partial import created, partial_folder

_WEIGHTS = ("model*.safetensors", INDEX_NAME, ADAPTER_NAME, ADAPTER_CONFIG_NAME)


def keep(state: Path, step: int, out: Path, recipe: Recipe, theta0: Checkpoint, record: Mapping[str, Any]) -> Kept:
    """Make the model folder `out` of TRL's `state` at `step`, as `recipe.save` says.

    record: what llm_expo.json is to say of it (record.py); what storage in 16 bits does to the direction is added.

    Raises TrainingError for a state that holds no whole model; OutputError.
    """
    with _staged(state, recipe, theta0) as staged:
        # A float32 model is kept as TRL wrote it: nothing of theta0's is asked that could be refused.
        if recipe.save == "float32" or recipe.lora:
            _put_record(staged, record)
            _copy(staged, out)
            return Kept(out, step, ())
        direction = Direction(theta0, Checkpoint.open(Located(staged)))
        measured = share_kept(direction)
        stored = measured.difference if recipe.save == "difference" else measured.bfloat16
        _put_record(staged, {**record, "stored": _told(recipe.save, stored)})
        if recipe.save == "difference":
            planned = plan_difference(direction)
        else:
            said = (staged / PROVENANCE_NAME).read_bytes()
            planned = replace(plan(direction, 0.0, dtype=recipe.save), made={PROVENANCE_NAME: said})
        write(planned, out)
    return Kept(out, step, _lost(recipe.save, stored))


def _put_record(staged: Path, record: Mapping[str, Any]) -> None:
    (staged / PROVENANCE_NAME).write_text(f"{json.dumps(record, indent=2)}\n", encoding="utf-8")


def _told(save: Save, stored: Stored | None) -> dict[str, Any]:
    """For the record; where theta1 is theta0 there is no direction to keep."""
    measured = {} if stored is None else {**asdict(stored), "cosine": float(f"{stored.cosine:.9g}")}
    return {"as": save, **measured}


def _lost(save: Save, stored: Stored | None) -> tuple[str, ...]:
    """A warning, for what loses more than rounding the direction itself to 16 bits would."""
    if stored is None or stored.noise < 0.01:
        return ()
    return (
        f'save = "{save}" keeps {stored.share:.1%} of the direction from theta0 and adds noise of {stored.noise:.3g} '
        f"times its length (cosine {stored.cosine:.2f}), by rounding weights that are larger than their steps; "
        + ('"difference" or "float32" keep it as it is' if save == "bfloat16" else '"float32" keeps it as it is'),
    )


def _copy(staged: Path, out: Path) -> None:
    files = [path for path in staged.rglob("*") if not path.is_dir()]
    with partial_folder(out, sum(path.stat().st_size for path in files)) as partial:
        for path in files:
            target = partial.folder / path.relative_to(staged)
            target.parent.mkdir(exist_ok=True)
            with created(target) as fd, path.open("rb") as source, open(fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(source, copy)


@contextmanager
def _staged(state: Path, recipe: Recipe, theta0: Checkpoint) -> Iterator[Path]:
    """A folder of links: TRL's weights, theta0's tokenizer and templates; and a config.json of float32.

    TRL writes a tokenizer, too, but as the trainer has changed it: with a padding token that theta0's lacks.
    """
    staged = state.with_name("model")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        weights = [path for pattern in _WEIGHTS for path in state.glob(pattern)]
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
        if not recipe.lora:
            # A reward model's architecture is not theta0's.
            config = (state if recipe.algorithm == "reward" else theta0.path) / CONFIG_NAME
            with (staged / CONFIG_NAME).open("wb") as file:
                file.writelines(side_file(config, "float32"))
        yield staged
    finally:
        shutil.rmtree(staged)
