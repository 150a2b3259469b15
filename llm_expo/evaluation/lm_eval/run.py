"""Models times tasks: each finished pair is kept, and not run again. Loads a model only where something is missing."""

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval import harness
from llm_expo.evaluation.lm_eval.kept import Record, enter, keep, leaves, read_kept
from llm_expo.evaluation.lm_eval.paired import Answered, read_answered
from llm_expo.evaluation.lm_eval.tasks import Asked
from llm_expo.evaluation.models import Model
from llm_expo.evaluation.replies import Watch
from llm_expo.generation.vocabulary import require_template

if TYPE_CHECKING:
    from llm_expo.evaluation.lm_eval.on_vllm import OnVllm
    from llm_expo.generation.whole import Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How tasks are put.

    tasks_from: a folder with tasks of one's own, as YAML.
    chat: through the model's chat template; otherwise as plain text.
    limit: the first items of each task only.
    vllm: what runs the models, unless it is transformers in this process.
    """

    tasks_from: Path | None
    chat: bool
    limit: int | None
    batch_size: int
    vllm: "OnVllm | None"


def measure(
    models: Sequence[Model],
    opened: Callable[[Model], "Whole"],
    asked: Sequence[Asked],
    out: Path,
    manner: Manner,
    watch: Watch,
) -> list[Answered]:
    """Put every task to every model; OUT/NAME holds what came of it (kept.py).

    Returns the items of the tasks that were asked for. Raises EvaluationError as harness.py, kept.py and paired.py do,
    EngineError as `Whole` does; what was finished is kept.
    """
    harness.quieten()
    wholes = [opened(model) for model in models]
    records = [_read(model, whole, out, manner) for model, whole in zip(models, wholes, strict=True)]
    loaded: dict[Asked, dict[str, Any]] = {}
    for model, record in zip(models, records, strict=True):
        for each in asked:
            names = leaves(record, out / model.name, each)
            if not names or not record["results"].keys() >= set(names):
                loaded[each] = {}
    # Before any model: a task that is not there, or its data, need not wait for one.
    if loaded:
        if manner.vllm is not None:
            _ = manner.vllm.environment  # fails at once where something is missing
        manager = harness.find([each.name for each in loaded], manner.tasks_from)
        loaded = {each: harness.load(manager, each) for each in loaded}
    for model, whole, record in zip(models, wholes, records, strict=True):
        wanted = []
        for each, tasks in loaded.items():
            enter(record, each, list(tasks))
            names = leaves(record, out / model.name, each)
            wanted += [(each, name, tasks[name]) for name in names if name not in record["results"]]
        if wanted:
            _ask(model, whole, record, wanted, out, manner, watch)
            gc.collect()  # lm-eval's wrapper refers to itself, and the next model needs the memory
    return [
        read_answered(
            out / model.name, record, [name for each in asked for name in leaves(record, out / model.name, each)]
        )
        for model, record in zip(models, records, strict=True)
    ]


def _read(model: Model, whole: "Whole", out: Path, manner: Manner) -> Record:
    chat, limit = manner.chat, manner.limit
    if chat:
        require_template(whole.tokenizer, whole.direction.aligned.tokenizer_folder)
    engine, source = ("transformers", "hf") if manner.vllm is None else ("vllm", "vllm")
    ours = {"engine": engine, "lm_eval": harness.VERSION, "chat template": chat, "limit": limit}
    settings = {**whole.settings, **ours}
    record = read_kept(out / model.name, settings)
    record |= {
        "model_name": model.name,
        "model_source": source,
        "lm_eval_version": harness.VERSION,
        "chat_template": whole.tokenizer.chat_template if chat else None,
        "fewshot_as_multiturn": chat,
        "config": {"model": source, "model_args": {"pretrained": model.place, "dtype": whole.dtype}, "limit": limit},
    }
    return record


def _ask(
    model: Model,
    whole: "Whole",
    record: Record,
    wanted: Sequence[tuple[Asked, str, Any]],
    out: Path,
    manner: Manner,
    watch: Watch,
) -> None:
    watch(f"{model.name}: loading", 0, 1)
    opened: AbstractContextManager[Any]
    if manner.vllm is None:
        opened = nullcontext(harness.wrapped(whole.load(), whole.tokenizer, manner.batch_size))
    else:
        opened = manner.vllm.opened(whole, manner.batch_size)
        record["llm_expo"]["environment"] = manner.vllm.environment
    with opened as lm:
        for asked, name, task in wanted:
            progress = partial(watch, f"{model.name}: {name}")
            try:
                found, samples = harness.put(lm, name, task, asked.shots, manner.chat, manner.limit, progress)
            except EvaluationError as error:
                raise EvaluationError(f"{model.name}: {error}") from error
            keep(out / model.name, record, asked, found, samples)
