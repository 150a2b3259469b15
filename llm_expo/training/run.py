"""One training, from the recipe to its models; killed at any moment, the same call goes on from its last state.

Under accelerate or torchrun every process calls `train` alike, and the first one writes.
"""

import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from accelerate import PartialState
from datasets import Dataset, load_from_disk
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, Trainer

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.files import reason, shown
from llm_expo.checkpoints.fingerprint import fingerprint
from llm_expo.errors import CheckpointError, ExpoError, OutputError, RecipeError, TrainingError
from llm_expo.training import folder
from llm_expo.training.algorithms import algorithm
from llm_expo.training.data import Records, read_records
from llm_expo.training.events import Kept, Stepped
from llm_expo.training.keeping import keep
from llm_expo.training.plan import Steps, plan_steps
from llm_expo.training.recipe import Recipe
from llm_expo.training.record import training_record
from llm_expo.training.trainers import make_trainer
from llm_expo.training.watching import Metrics, Saves, stop_at_nan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run."""

    models: tuple[Path, ...]  # in the order of their steps; the last one is OUT/model
    steps: int


def train(recipe: Recipe, out: Path, watch: Callable[[Stepped | Kept], None] = lambda _: None) -> Trained:
    """Train as `recipe` says and keep its models in the folder `out` (folder.py tells what lies there).

    watch: is told every step and every model, in the first process only.

    Raises RecipeError (the recipe, its data), CheckpointError (theta0), OutputError (`out` holds another run, is in
    use, is full), TrainingError (NaN, out of memory). Every model that was kept and the last state stay.
    """
    # Before anything asks accelerate, whose own setting would go before the recipe's.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if recipe.precision == "bfloat16" else "no"
    # Without being told, it takes several processes on CPUs for so many single ones.
    processes = PartialState(cpu=not torch.accelerator.is_available())
    settled = algorithm(recipe)
    recipe = replace(recipe, coefficients=dict(settled.coefficients))
    theta0 = Checkpoint.open(recipe.model)
    if out.resolve().is_relative_to(theta0.path.resolve()):
        raise OutputError(f"{shown(out)}: lies in theta0's folder, {shown(theta0.path)}; inputs are never written to")
    tokenizer = load_tokenizer(theta0)
    records = read_records(recipe, tokenizer)
    steps = plan_steps(recipe, len(records.dataset), processes.num_processes)
    assert steps is not None  # the records are known
    _fits_context(theta0, records.longest)
    settings = {
        "recipe": asdict(recipe),
        "theta0": fingerprint(theta0),
        "template": _digest([tokenizer.chat_template]),
        "data": _digest(records.dataset),
        "records": len(records.dataset),
        "dropped": dict(records.dropped),
        "steps": steps.schedule,
    }
    models = {step: out / ("model" if step == steps.trained else f"step-{step}") for step in steps.saves}
    with folder.begun(out, settings) if processes.is_main_process else nullcontext():
        if all(path.exists() for path in models.values()):
            processes.wait_for_everyone()
            if processes.is_main_process:
                shutil.rmtree(out / "work", ignore_errors=True)
            return Trained(tuple(models.values()), steps.trained)
        if processes.is_main_process:
            _tell(records)
            folder.remove_unfinished_states(out)
            if not folder.records_of(out).exists():
                _put(records.dataset, folder.records_of(out))
        processes.wait_for_everyone()

        def keep_model(step: int) -> None:
            if models[step].exists():
                return
            state = folder.last_state(out)
            assert state is not None  # TRL has just written it
            watch(keep(state, step, models[step], recipe, theta0, training_record(recipe, theta0, step, steps.trained)))

        with _quiet(), _told_in_one_line(recipe, steps, out):
            trainer = _made(
                recipe,
                settled,
                steps,
                load_from_disk(folder.records_of(out)),
                records.sequential,
                tokenizer,
                theta0,
                folder.states_of(out),
            )
            state = folder.last_state(out)
            done = folder.step_of(state)
            if processes.is_main_process:
                folder.forget_metrics_after(out, done)
                if done in models:  # killed between the state and the model
                    keep_model(done)
            trainer.add_callback(Metrics(out, done, steps.trained, watch))
            trainer.add_callback(Saves(frozenset(models), steps.resume_every, steps.trained, keep_model))
            trainer.remove_callback(PrinterCallback)
            stop_at_nan(trainer)
            if done < steps.trained:
                trainer.train(resume_from_checkpoint=str(state) if state else None)
        processes.wait_for_everyone()
        if processes.is_main_process:
            shutil.rmtree(out / "work")
    return Trained(tuple(models.values()), steps.trained)


@contextmanager
def _quiet() -> Iterator[None]:
    """What we tell ourselves, or cannot change, need not be told by the libraries as well."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        transformers.utils.logging.enable_progress_bar()


def load_tokenizer(theta0: Checkpoint) -> PreTrainedTokenizerBase:
    """theta0's tokenizer. Raises CheckpointError."""
    try:
        return AutoTokenizer.from_pretrained(theta0.tokenizer_folder)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise CheckpointError(f"{shown(theta0.path)}: its tokenizer cannot be loaded: {error}") from None


def _made(recipe: Recipe, *others: Any) -> Trainer:
    """make_trainer, whose libraries refuse what they cannot use in every way that Python has."""
    try:
        return make_trainer(recipe, *others)
    except (ExpoError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError, LookupError, AttributeError, re.error) as error:
        if "memory" in str(error):
            raise
        raise RecipeError(f"this model cannot be trained so: {type(error).__name__}: {error}") from error


def _fits_context(theta0: Checkpoint, longest: int) -> None:
    context = theta0.config.get("max_position_embeddings")
    if isinstance(context, int) and longest > context:
        raise RecipeError(
            f"max_length: the longest record has {longest} tokens, and theta0 {shown(theta0.path)} a context of "
            f"{context}; set max_length = {context}"
        )


def _tell(records: Records) -> None:
    dropped = "".join(f"; dropped {count:,}: {why}" for why, count in records.dropped.items())
    logger.info("%s records%s", f"{len(records.dataset):,}", dropped)


def _digest(rows: Iterable[object]) -> str:
    digest = xxhash.xxh3_64()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _put(dataset: Dataset, place: Path) -> None:
    """On disk, where all processes find it, and TRL keeps what it calculates from it for the next run."""
    unfinished = place.with_name(f"{place.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    dataset.save_to_disk(unfinished)
    unfinished.rename(place)


@contextmanager
def _told_in_one_line(recipe: Recipe, steps: Steps, out: Path) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(recipe, steps) from error
    except OSError as error:
        raise OutputError(f"{shown(error.filename or out)}: {reason(error)}; {_STAYS}") from error
    except SafetensorError as error:
        raise OutputError(f"{shown(out)}: weights cannot be written: {error}; {_STAYS}") from error
    except RuntimeError as error:
        if "allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise _out_of_memory(recipe, steps) from error
        if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
            raise OutputError(f"{shown(out)}: TRL's state cannot be written, the disk may be full; {_STAYS}") from error
        raise


_STAYS = "what was kept stays, and the same command goes on from the last state"


def _out_of_memory(recipe: Recipe, steps: Steps) -> TrainingError:
    ways = [
        f"micro_batch_size (now {steps.micro_batch})" if steps.micro_batch > 1 else "",
        f"max_length (now {recipe.max_length})",
    ]
    others = [
        "" if recipe.gradient_checkpointing else "gradient_checkpointing = true",
        "" if recipe.lora else "a [lora] table",
    ]
    return TrainingError(
        f"out of memory: lower {' or '.join(filter(None, ways))}"
        + (f", or set {' or '.join(filter(None, others))}" if any(others) else "")
        + f"; {_STAYS}"
    )
