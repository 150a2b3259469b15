"""lm-evaluation-harness itself: finds tasks and puts one to a model.

One task at a time, so that each is kept as it ends. So a task is prepared here as `lm_eval.simple_evaluate` does it,
and handed to `lm_eval.evaluate`: called for each of MMLU's 57 subjects, `simple_evaluate` would look the machine over
57 times.
"""

import difflib
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from llm_expo.errors import EvaluationError, ExpoError
from llm_expo.evaluation.lm_eval.kept import GOLD
from llm_expo.evaluation.lm_eval.results import score_key
from llm_expo.evaluation.lm_eval.tasks import Asked
from llm_expo.scoring.scorer import Progress

VERSION = lm_eval.__version__

_REQUESTS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def quieten() -> None:
    """Keeps the libraries' own warnings and bars away from standard error."""
    for name in ("lm_eval", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.logging.set_verbosity(logging.ERROR)
    datasets.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()


def find(names: Sequence[str], folder: Path | None) -> TaskManager:
    """The tasks of `folder`, and lm-eval's own unless the folder holds all that is asked for: to read its 14,000 takes
    seconds.

    Raises EvaluationError for a folder without tasks and for a name that is not known, with the nearest one.
    """
    own: list[str] = []
    if folder is not None:
        here = TaskManager(include_path=folder, include_defaults=False)
        own = here.all_tasks
        if not own:
            raise EvaluationError(f"{folder}: holds no task that lm-eval can read; a task is a YAML file, NAME.yaml")
        if all(_stands_alone(here, name) for name in names):
            return here
    found = TaskManager(include_path=folder)
    for name in names:
        if name not in found.all_tasks:
            near = difflib.get_close_matches(name, [*own, *found.all_tasks], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            beside = f"; {folder} has {', '.join(own)}" if own else ""
            raise EvaluationError(f"lm-eval {VERSION} has no task {name!r}{hint}{beside}")
    return found


def _stands_alone(manager: TaskManager, name: str) -> bool:
    """Whether a task, or all members of a group, are there. Of a tag, others may have more."""
    entry = manager.task_index.get(name)
    held = entry.cfg.get("task") if entry is not None and entry.cfg else None
    if isinstance(held, list):
        return all(isinstance(each, str) and _stands_alone(manager, each) for each in held)
    return held is not None


def load(manager: TaskManager, asked: Asked) -> dict[str, Any]:
    """The tasks that a task, group or tag consists of, by name, with their data.

    Raises EvaluationError where the data cannot be had, for shots that the task would not take, and for a task without
    a score that is compared here.
    """
    try:
        tasks: dict[str, Any] = manager.load([asked.name])["tasks"]
    except Exception as error:  # a task is code and data of anybody's
        raise EvaluationError(
            f"the task {asked.name} cannot be loaded: {_reason(error)} (lm-eval fetches data from the hub, unless the "
            f"cache has them)"
        ) from error
    for name, task in tasks.items():
        if asked.shots and task.get_config("num_fewshot") == 0:
            raise EvaluationError(f"{name}: asked for with {asked.shots} shots, and the task itself demands 0")
        measured = list(task.aggregation())
        if score_key(name, measured) is None:
            raise EvaluationError(f"{name}: measures {', '.join(measured)}, and no share of right answers to compare")
    return tasks


def wrapped(model: Any, tokenizer: Any, batch_size: int) -> HFLM:
    """A live transformers model as lm-eval asks it."""
    return HFLM(model, tokenizer=tokenizer, batch_size=batch_size)


class Elsewhere(LM):  # type: ignore[misc]  # lm-eval's types are unknown here
    """A model of lm-eval's own in another process: requests go there through `ask`, `batch_size` at a time."""

    tokenizer_name = ""  # is for lm-eval's caches, of which we use none

    def __init__(self, ask: Callable[[Mapping[str, object]], Any], batch_size: int) -> None:
        super().__init__()
        self._ask = ask
        self._batch_size = batch_size

    def loglikelihood(self, requests: list[Instance], **_: object) -> list[tuple[float, bool]]:
        return [(value, greedy) for value, greedy in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], **_: object) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], **_: object) -> list[str]:
        return self._answers("generate_until", requests)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self._ask({"do": "template", "history": chat_history, "prompt": add_generation_prompt})
        return text

    def _answers(self, kind: str, requests: list[Instance]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(requests), self._batch_size):
            batch = [request.args for request in requests[start : start + self._batch_size]]
            for asked, answer in zip(batch, self._ask({"do": "answer", "kind": kind, "batch": batch}), strict=True):
                answers.append(answer)
                self.cache_hook.add_partial(kind, asked, answer)
        return answers


def put(
    lm: LM, name: str, task: Any, shots: int | None, chat: bool, limit: int | None, watch: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What lm-eval makes of one task: its results, and its samples with the gold answer's log-likelihood.

    chat: through the model's chat template, few-shot examples as turns; otherwise as plain text.
    watch: told how many requests of how many are answered.

    Raises EvaluationError with whatever went wrong inside.
    """
    if shots is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    counted = _Counted(watch)
    lm.set_cache_hook(counted)
    for kind in _REQUESTS:
        setattr(lm, kind, partial(counted.ask, partial(getattr(type(lm), kind), lm, disable_tqdm=True)))
    try:
        found: Any = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": {name: task}, "groups": {}},
            limit=limit,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        samples = found.pop("samples")[name]
        if task.OUTPUT_TYPE == "multiple_choice":
            for sample in samples:
                sample[GOLD] = _gold(task, sample)
    except ExpoError:
        raise
    except torch.OutOfMemoryError:
        raise EvaluationError(f"{name}: the device is out of memory; lower --batch-size") from None
    except Exception as error:  # a task is code of anybody's
        raise EvaluationError(f"{name}: lm-eval failed: {_reason(error)}") from error
    return dict(found), samples


class _Counted:
    """Progress, from the place of lm-eval's cache, which is told of each answer."""

    def __init__(self, watch: Progress) -> None:
        self._watch = watch
        self._done = self._of = 0

    def ask(self, ask: Callable[[Sequence[Any]], Any], requests: Sequence[Any]) -> Any:
        self._done, self._of = 0, len(requests)
        return ask(requests)

    def add_partial(self, *_: object) -> None:
        self._done += 1
        self._watch(self._done, self._of)


def _gold(task: Any, sample: Mapping[str, Any]) -> float | None:
    """The logarithm of the probability of the right answer, or of all right answers together."""
    doc = sample["doc"]
    choices = task.doc_to_choice(doc)
    # Where the choices stand in the question (Winogrande), it is the question that says which one is right.
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    told = [choices.index(each) if isinstance(each, str) else each for each in _listed(gold)]
    values = [float(sample["resps"][place][0][0]) for place in told]
    most = max(values, default=-math.inf)
    return None if math.isinf(most) else most + math.log(math.fsum(math.exp(value - most) for value in values))


def _listed(gold: Any) -> list[Any]:
    return gold if isinstance(gold, list) else [gold]


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:300]}" if told else type(error).__name__
