"""Benchmark results from files: a score and its standard error for each model and task. Runs nothing.

Two shapes are read: what lm-evaluation-harness 0.4 writes ({"results": {TASK: {"METRIC,FILTER": ...}}}), one model a
file; and collected results of several models, {MODEL: {SUITE: {TASK: {METRIC: ...}}}}. Of the six tasks of the Open LLM
Leaderboard the leaderboard's own metric is taken, and MMLU is the plain mean of its subjects.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import load_json


@dataclass(frozen=True, slots=True)
class Score:
    """In percent, with its standard error (None where none was reported) and the metric's name in the file."""

    value: float
    se: float | None
    metric: str


@dataclass(frozen=True, slots=True)
class Results:
    """The scores of one model by task."""

    model: str
    scores: Mapping[str, Score]


_MMLU = ("hendrycksTest-", "mmlu_")
_MMLU_GROUPS = ("mmlu", "mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other")
"""lm-eval's own means over subjects, which weigh them by size; the leaderboard's does not."""

_METRICS: dict[str, tuple[str, ...]] = {
    "arc_challenge": ("acc_norm",),
    "hellaswag": ("acc_norm",),
    "mmlu": ("acc",),
    "truthfulqa_mc2": ("mc2", "acc"),
    "winogrande": ("acc",),
    "gsm8k": ("exact_match,strict-match", "exact_match", "acc"),
    "tinyGSM8k": ("exact_match,strict-match", "exact_match"),
}
_USUAL = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")
_TASKS = {"truthfulqa_mc": "truthfulqa_mc2", "truthfulqa-mc": "truthfulqa_mc2"}


def read_results(path: Path) -> list[Results]:
    """The results of all models in a file, in its order.

    Raises EvaluationError, naming file, model and task.
    """
    loaded = load_json(path)
    if not isinstance(loaded, Mapping) or not loaded:
        raise EvaluationError(f"{path}: neither lm-eval's results nor {{MODEL: {{SUITE: {{TASK: ...}}}}}}")
    if "results" in loaded:
        model = loaded.get("model_name") or path.stem
        return [Results(str(model), _scores(_tasks(loaded["results"], str(path)), str(path)))]
    found = []
    for model, suites in loaded.items():
        place = f"{path}: {model}"
        tasks: dict[str, Mapping[str, Any]] = {}
        for suite, held in _tasks(suites, place).items():
            tasks |= _tasks(held, f"{place}: {suite}")
        found.append(Results(model, _scores(tasks, place)))
    return found


def _tasks(held: Any, place: str) -> dict[str, Mapping[str, Any]]:
    if not isinstance(held, Mapping) or not held or not all(isinstance(each, Mapping) for each in held.values()):
        raise EvaluationError(f"{place}: holds no tasks with their metrics")
    return dict(held)


def columns(tasks: Iterable[str]) -> dict[str, list[str]]:
    """The tasks by the name that a table has for them, in the leaderboard's order: MMLU's subjects are one column.

    lm-eval's own means over subjects are left out where the subjects are there.
    """
    given = list(tasks)
    subjects = [name for name in given if name.startswith(_MMLU) and name not in _MMLU_GROUPS]
    beside = {*subjects, *(_MMLU_GROUPS if subjects else ())}
    found = {_TASKS.get(name, name): [name] for name in given if name not in beside}
    if subjects:
        found["mmlu"] = subjects
    return {**{name: found[name] for name in _METRICS if name in found}, **found}


def score_key(task: str, metrics: Iterable[str]) -> str | None:
    """Which of a task's METRIC or METRIC,FILTER its score is; None for a task without a share of right answers."""
    keys = list(metrics)
    for metric in _METRICS.get(_TASKS.get(task, task), _USUAL):
        # A filter of any name; where there is none, lm-eval writes "none".
        for wanted in (metric, f"{metric},none"):
            if wanted in keys:
                return wanted
        named = [key for key in keys if key.partition(",")[0] == metric]
        if named:
            return named[0]
    return None


def _scores(tasks: Mapping[str, Mapping[str, Any]], place: str) -> dict[str, Score]:
    scores = {}
    for column, names in columns(tasks).items():
        each = [_score(column, tasks[name], f"{place}: {name}") for name in names]
        scores[column] = each[0] if names[0] in (column, *_TASKS) else _mean(each)
    return scores


def _mean(scores: Sequence[Score]) -> Score:
    n = len(scores)
    errors = [each.se for each in scores]
    se = None if None in errors else math.hypot(*(each for each in errors if each is not None)) / n
    return Score(math.fsum(each.value for each in scores) / n, se, f"mean {scores[0].metric} of {n} subjects")


def _score(task: str, metrics: Mapping[str, Any], place: str) -> Score:
    key = score_key(task, metrics)
    if key is None:
        wanted = " or ".join(_METRICS.get(task, _USUAL))
        raise EvaluationError(f"{place}: no metric {wanted}; it has {', '.join(map(str, metrics))}")
    name, comma, filtered = key.partition(",")
    value = _number(metrics[key], f"{place}: {name}")
    error = metrics.get(f"{name}_stderr{comma}{filtered}")
    known = isinstance(error, int | float) and math.isfinite(error)
    return Score(100 * value, 100 * float(error) if known and error is not None else None, name)


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise EvaluationError(f"{place} is {value!r}, not a share from 0 to 1")
    return float(value)
