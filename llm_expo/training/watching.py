"""What happens between two steps: metrics and progress, models at their steps, and a stop at the first NaN."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

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


class Metrics(TrainerCallback):
    """A line in metrics.jsonl for each step, and the same to whoever watches; in the first process only."""

    def __init__(self, out: Path, done: int, steps: int, watch: Callable[[Stepped], None]) -> None:
        self._out, self._done, self._steps, self._watch = out, done, steps, watch
        self._started = time.monotonic()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._done:  # the clock runs from the first step, not from the loading
            self._started = time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        logs = more["logs"]
        if not state.is_world_process_zero or "loss" not in logs:
            return
        seconds = time.monotonic() - self._started
        append_metrics(self._out, {"step": state.global_step, **logs, "seconds": round(seconds, 2)})
        pace = seconds / max(state.global_step - self._done, 1)
        left = pace * (self._steps - state.global_step)
        self._watch(Stepped(state.global_step, self._steps, logs["loss"], left))


class Saves(TrainerCallback):
    """Tells TRL when to save its state, takes a model from the states that are due, and stops at the last step."""

    def __init__(self, models: frozenset[int], every: int, last: int, keep: Callable[[int], None]) -> None:
        self._models, self._every, self._last, self._keep = models, every, last, keep

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        control.should_save = step in self._models or step % self._every == 0
        control.should_training_stop = step >= self._last

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and state.global_step in self._models:
            self._keep(state.global_step)


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
