"""One training, from the recipe to its models; killed at any moment, the same call goes on from its last state.

Under accelerate or torchrun every process calls `train` alike, and the first one writes.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate import PartialState
from datasets import load_from_disk
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.files import reason, shown
from llm_expo.checkpoints.fingerprint import fingerprint
from llm_expo.errors import ExpoError, OutputError, RecipeError, TrainingError
from llm_expo.training import folder
from llm_expo.training.algorithms import Algorithm, algorithm
from llm_expo.training.data import Records, read_records
from llm_expo.training.events import Kept, Stepped
from llm_expo.training.keeping import keep
from llm_expo.training.models import load_tokenizer, quiet, refuse_model
from llm_expo.training.plan import Steps, plan_steps
from llm_expo.training.recipe import Recipe
from llm_expo.training.record import training_record
from llm_expo.training.together import first_alone, together
from llm_expo.training.trainers import make_trainer, refuse_fields
from llm_expo.training.watching import Metrics, Saves, save_together, stop_at_nan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run."""

    models: tuple[Path, ...]  # in the order of their steps; the last one is OUT/model
    steps: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that a run is made of; nothing is written yet."""

    recipe: Recipe  # settled
    algorithm: Algorithm
    theta0: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    records: Records
    steps: Steps
    out: Path
    models: Mapping[int, Path]  # by the steps after which they are kept


def train(recipe: Recipe, out: Path, watch: Callable[[Stepped | Kept], None] = lambda _: None) -> Trained:
    """Train as `recipe` says and keep its models in the folder `out` (folder.py tells what lies there).

    watch: is told every step and every model, in the first process only.

    Raises RecipeError (the recipe, its data), CheckpointError (theta0), OutputError (`out` holds another run, is in
    use, is full), TrainingError (NaN, out of memory, another process failed). Every model that was kept and the last
    state stay.
    """
    # Before anything asks accelerate, whose own setting would go before the recipe's.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if recipe.precision == "bfloat16" else "no"
    # Without being told, it takes several processes on CPUs for so many single ones.
    processes = PartialState(cpu=not torch.accelerator.is_available())
    with _told_in_one_line(recipe, out, processes.num_processes):
        run = together(processes, lambda: _prepare(recipe, out, processes.num_processes))
        with quiet(), ExitStack() as held:
            first_alone(processes, lambda: held.enter_context(folder.begun(out, _settings(run))))
            if not all(path.exists() for path in run.models.values()):
                first_alone(processes, lambda: _lay_out(run))
                _train(run, processes, watch)
            processes.wait_for_everyone()
            if processes.is_main_process:
                shutil.rmtree(out / "work", ignore_errors=True)
    return Trained(tuple(run.models.values()), run.steps.trained)


def next_step(recipe: Recipe, model: Path) -> str:
    """What a trained model is for, as a command."""
    if recipe.algorithm == "reward":
        merged = ", once PEFT has merged the adapter into its base" if recipe.lora else ""
        return f"llm-expo search ... --scorer reward-model:{model}{merged}"
    if recipe.algorithm == "sft" and recipe.lora:
        return f"llm-expo apply {model} --alpha 0 --merge --out THETA0, then llm-expo train, with model = THETA0"
    if recipe.algorithm == "sft":
        return f"llm-expo train, with model = {model} in a recipe of preferences"
    return f"llm-expo search {model} ..."


def _prepare(recipe: Recipe, out: Path, processes: int) -> _Prepared:
    """Read and check everything, theta0's weights excepted, of which only the names are read."""
    settled = algorithm(recipe)
    recipe = replace(recipe, coefficients=dict(settled.coefficients))
    refuse_fields(recipe, settled)
    theta0 = Checkpoint.open(recipe.model)
    if out.resolve().is_relative_to(theta0.path.resolve()):
        raise OutputError(f"{shown(out)}: lies in theta0's folder, {shown(theta0.path)}; inputs are never written to")
    tokenizer = load_tokenizer(theta0)
    records = read_records(recipe, tokenizer)
    steps = plan_steps(recipe, len(records.dataset), processes)
    assert steps is not None  # the records are known
    refuse_model(recipe, theta0, records.longest)
    models = {step: out / ("model" if step == steps.trained else f"step-{step}") for step in steps.saves}
    return _Prepared(recipe, settled, theta0, tokenizer, records, steps, out, models)


def _settings(run: _Prepared) -> dict[str, Any]:
    """What has to stay the same for a killed run to go on."""
    return {
        "recipe": asdict(run.recipe),
        "theta0": fingerprint(run.theta0),
        "template": _digest([run.tokenizer.chat_template]),
        "data": _digest(run.records.dataset),
        "records": len(run.records.dataset),
        "dropped": dict(run.records.dropped),
        "steps": run.steps.schedule,
    }


def _lay_out(run: _Prepared) -> None:
    """The records where all processes find them, and what a kill left half written away."""
    dropped = "".join(f"; dropped {count:,}: {why}" for why, count in run.records.dropped.items())
    logger.info("%s records%s", f"{len(run.records.dataset):,}", dropped)
    folder.remove_unfinished_states(run.out)
    place = folder.records_of(run.out)
    if not place.exists():
        unfinished = place.with_name(f"{place.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        run.records.dataset.save_to_disk(unfinished)
        unfinished.rename(place)


def _train(run: _Prepared, processes: PartialState, watch: Callable[[Stepped | Kept], None]) -> None:
    """Go on from the last state to the last step, and keep the models on the way."""

    def keep_model(step: int) -> None:
        if run.models[step].exists():
            return
        state = folder.last_state(run.out)
        assert state is not None  # TRL has just written it
        record = training_record(run.recipe, run.theta0, step, run.steps.trained)
        watch(keep(state, step, run.models[step], run.recipe, run.theta0, record))

    trainer = _made(
        run.recipe,
        run.algorithm,
        run.steps,
        load_from_disk(folder.records_of(run.out)),  # beside which TRL keeps what it calculates, for the next start
        run.records.sequential,
        run.tokenizer,
        run.theta0,
        folder.states_of(run.out),
    )
    state = folder.last_state(run.out)
    done = folder.step_of(state)
    metrics = Metrics(run.out, done, run.steps.trained, watch, processes)

    def take_up() -> None:
        metrics.go_on_from(folder.forget_metrics_after(run.out, done))
        if done in run.models:  # killed between the state and the model
            keep_model(done)

    first_alone(processes, take_up)
    trainer.add_callback(metrics)
    trainer.add_callback(Saves(frozenset(run.models), run.steps.resume_every, run.steps.trained, keep_model, processes))
    trainer.remove_callback(PrinterCallback)
    stop_at_nan(trainer)
    save_together(trainer, processes)
    if done < run.steps.trained:
        trainer.train(resume_from_checkpoint=str(state) if state else None)


def _made(recipe: Recipe, *others: Any) -> Trainer:
    """make_trainer, whose libraries refuse what they cannot use in every way that Python has."""
    try:
        return make_trainer(recipe, *others)
    except (ExpoError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError, LookupError, AttributeError, re.error) as error:
        if "memory" in str(error) or _full_disk(error) is not None:
            raise
        raise RecipeError(f"this model cannot be trained so: {type(error).__name__}: {error}") from error


def _digest(rows: Iterable[object]) -> str:
    digest = xxhash.xxh3_64()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _full_disk(error: BaseException | None) -> OSError | None:
    """The disk's own error beneath another: what closes a file that it could not write, fails once more over it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _told_in_one_line(recipe: Recipe, out: Path, processes: int) -> Iterator[None]:
    micro_batch = recipe.micro_batch_size or recipe.batch_size // processes
    try:
        yield
    except ExpoError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(recipe, micro_batch) from error
    except OSError as error:
        raise OutputError(f"{shown(error.filename or out)}: {reason(error)}; {_STAYS}") from error
    except SafetensorError as error:
        raise OutputError(f"{shown(out)}: weights cannot be written: {error}; {_STAYS}") from error
    except (RuntimeError, ValueError) as error:
        if (full := _full_disk(error)) is not None:
            raise OutputError(f"{shown(full.filename or out)}: {reason(full)}; {_STAYS}") from error
        if "allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise _out_of_memory(recipe, micro_batch) from error
        if any(words in str(error) for words in _TORCH_CANNOT_WRITE):
            raise OutputError(f"{shown(out)}: TRL's state cannot be written, the disk may be full; {_STAYS}") from error
        if "gloo" in str(error) or type(error).__name__ in ("DistBackendError", "DistNetworkError"):
            raise TrainingError(f"another process has stopped, and says why; {_STAYS}") from error
        raise


_STAYS = "what was kept stays, and the same command goes on from the last state, if there is one"

_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream error")
"""What torch.save says of a full disk, by how far it came."""


def _out_of_memory(recipe: Recipe, micro_batch: int) -> TrainingError:
    ways = [
        f"micro_batch_size (now {micro_batch})" if micro_batch > 1 else "",
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
