"""One training, from the recipe to its models; killed at any moment, the same call goes on from its last state.

Under accelerate or torchrun every process calls `train` alike, and the first one writes.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
import xxhash
from accelerate import PartialState
from datasets import Dataset, load_from_disk
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.files import reason, shown
from llm_expo.checkpoints.fingerprint import fingerprint
from llm_expo.errors import CheckpointError, OutputError, TrainingError
from llm_expo.training import folder
from llm_expo.training.algorithms import algorithm
from llm_expo.training.data import read_records
from llm_expo.training.events import Kept, Stepped
from llm_expo.training.keeping import keep
from llm_expo.training.plan import Steps, plan_steps
from llm_expo.training.recipe import Recipe
from llm_expo.training.record import training_record
from llm_expo.training.trainers import make_trainer
from llm_expo.training.watching import Metrics, Saves, stop_at_nan


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
    processes = PartialState()
    settled = algorithm(recipe)
    recipe = replace(recipe, coefficients=dict(settled.coefficients))
    theta0 = Checkpoint.open(recipe.model)
    tokenizer = load_tokenizer(theta0)
    records = read_records(recipe, tokenizer)
    steps = plan_steps(recipe, len(records.dataset), processes.num_processes)
    assert steps is not None  # the records are known
    settings = {
        "recipe": asdict(recipe),
        "theta0": fingerprint(theta0),
        "data": _digest(records.dataset),
        "steps": steps.schedule,
    }
    models = {step: out / ("model" if step == steps.trained else f"step-{step}") for step in steps.saves}
    with folder.begun(out, settings) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            folder.remove_unfinished_states(out)
            if not folder.records_of(out).exists():
                _put(records.dataset, folder.records_of(out))
        processes.wait_for_everyone()
        if all(path.exists() for path in models.values()):
            return Trained(tuple(models.values()), steps.trained)

        def keep_model(step: int) -> None:
            state = folder.last_state(out)
            assert state is not None  # TRL has just written it
            watch(keep(state, step, models[step], recipe, theta0, training_record(recipe, theta0, step, steps.trained)))

        with _quiet(), _told_in_one_line(recipe, steps, out):
            trainer = make_trainer(
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
                if done in models and not models[done].exists():  # killed between the state and the model
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


def _digest(dataset: Dataset) -> str:
    digest = xxhash.xxh3_64()
    for row in dataset:
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
