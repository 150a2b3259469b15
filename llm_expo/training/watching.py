"""What happens between two steps: metrics and progress, models at their steps, and a stop at the first NaN."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from llm_expo.errors import TrainingError
from llm_expo.training.events import Stepped
from llm_expo.training.folder import append_metrics
from llm_expo.training.together import first_alone, together


class Metrics(TrainerCallback):
    """A line in metrics.jsonl for each step, and the same to whoever watches; in the first process only."""

    def __init__(
        self, out: Path, done: int, steps: int, watch: Callable[[Stepped], None], processes: PartialState
    ) -> None:
        self._out, self._done, self._steps, self._watch, self._processes = out, done, steps, watch, processes
        self._started = time.monotonic()
        self._before: Mapping[str, Any] = {}

    def go_on_from(self, row: Mapping[str, Any]) -> None:
        """row: the last line that stays; what it sums up is added to what is counted from now on."""
        self._before = row

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._done:  # the clock runs from the first step, not from the loading
            self._started = time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        if "loss" in more["logs"]:
            first_alone(self._processes, lambda: self._put(state.global_step, more["logs"]))

    def _put(self, step: int, logs: Mapping[str, Any]) -> None:
        seconds = time.monotonic() - self._started
        row = {"step": step, **logs, "seconds": round(self._before.get("seconds", 0) + seconds, 2)}
        if "num_tokens" in row:
            row["num_tokens"] += self._before.get("num_tokens", 0)
        append_metrics(self._out, row)
        left = seconds / max(step - self._done, 1) * (self._steps - step)
        self._watch(Stepped(step, self._steps, logs["loss"], left))


class Saves(TrainerCallback):
    """Tells TRL when to save its state, takes a model from the states that are due, and stops at the last step."""

    def __init__(
        self, models: frozenset[int], every: int, last: int, keep: Callable[[int], None], processes: PartialState
    ) -> None:
        self._models, self._every, self._last, self._keep, self._processes = models, every, last, keep, processes

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        control.should_save = step in self._models or step % self._every == 0
        control.should_training_stop = step >= self._last

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step in self._models:
            first_alone(self._processes, lambda: self._keep(state.global_step))


def save_together(trainer: Trainer, processes: PartialState) -> None:
    """Have a state that one process cannot write, its disk being full for one, stop all of them."""
    save_as_it_is = trainer._save_checkpoint

    def save(*arguments: Any, **more: Any) -> None:
        together(processes, lambda: save_as_it_is(*arguments, **more))

    trainer._save_checkpoint = save  # type: ignore[method-assign]


def stop_at_nan(trainer: Trainer) -> None:
    """Have the trainer raise TrainingError at the first loss, or gradient, that is not a finite number.

    In every process at once, or the others would wait for the one that stopped.
    """
    step_as_it_is, clip_as_it_is = trainer.training_step, trainer._clip_grad_norm
    passes = 0

    def training_step(model: Any, inputs: Any, *others: Any, **more: Any) -> Any:
        nonlocal passes
        passes += 1
        loss = step_as_it_is(model, inputs, *others, **more)
        losses = trainer.accelerator.gather(loss.detach().reshape(1))
        if not losses.isfinite().all():
            number = (passes - 1) % trainer.args.gradient_accumulation_steps + 1
            raise TrainingError(
                f"step {trainer.state.global_step + 1}, micro-batch {number}: the loss is {losses.sum().item()}; "
                f"its first text begins with {_beginning(trainer, inputs)}; {_WAY_OUT}"
            )
        return loss

    def clip_grad_norm(model: Any) -> Any:
        norm = clip_as_it_is(model)  # type: ignore[no-untyped-call]
        if norm is not None and not float(norm) < float("inf"):
            raise TrainingError(f"step {trainer.state.global_step + 1}: the norm of the gradient is {norm}; {_WAY_OUT}")
        return norm

    trainer.training_step = training_step  # type: ignore[method-assign]
    trainer._clip_grad_norm = clip_grad_norm  # type: ignore[method-assign]


_WAY_OUT = 'lower learning_rate or max_grad_norm, lengthen warmup, or try precision = "float32"'


def _beginning(trainer: Trainer, inputs: dict[str, Any]) -> str:
    tokens = next((inputs[key] for key in ("input_ids", "prompt_input_ids") if key in inputs), None)
    if tokens is None:
        return "(unknown)"
    text = cast(PreTrainedTokenizerBase, trainer.processing_class).decode(list(tokens[0]), skip_special_tokens=True)
    return json.dumps(" ".join(str(text).split())[:80], ensure_ascii=False)
