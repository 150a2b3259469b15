"""What a model has answered to lm-eval's tasks, in a folder of its own: OUT/NAME.

results.json         what lm-eval writes, of all finished tasks; beside it our own `llm_expo`: the settings
samples_TASK.jsonl   each item with the model's answer, as lm-eval logs it, and the right answer's log-likelihood

A task is finished when results.json has it; its samples are there by then. Knows no model and no lm-eval.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import load_json, load_lines, save_json, save_lines
from llm_expo.evaluation.lm_eval.tasks import Asked

RESULTS_NAME = "results.json"

GOLD = "gold_log_likelihood"
"""What samples of multiple-choice tasks have beside what lm-eval logs: that of the right answer."""

_BY_TASK = ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
"""Parts of lm-eval's results that have an entry for each task."""

Record = dict[str, Any]


def read_kept(folder: Path, settings: Mapping[str, Any]) -> Record:
    """The results so far; those of a folder that is not there are empty.

    Raises EvaluationError where they were made with other settings, or by somebody else.
    """
    path = folder / RESULTS_NAME
    if not path.exists():
        return {**{part: {} for part in _BY_TASK}, "llm_expo": {"settings": dict(settings), "shots": {}}}
    record: Record = load_json(path)
    if "llm_expo" not in record:
        raise EvaluationError(f"{path}: was not made by this command, which would add to it; take another --out")
    then = {"engine": "transformers", **record["llm_expo"]["settings"]}  # which was not noted while there was no other
    for name in sorted(then.keys() | settings.keys()):
        if then.get(name) != settings.get(name):
            raise EvaluationError(
                f"{path}: was made with {name} {then.get(name)}, and now it is {settings.get(name)}; go on with the "
                "old setting, or take another --out"
            )
    return record


def leaves(record: Record, folder: Path, asked: Asked) -> list[str]:
    """The tasks that `asked` consists of, as far as the record knows.

    Raises EvaluationError where one of them is finished with other shots.
    """
    if asked.name not in record["group_subtasks"]:
        return []
    names: list[str] = record["group_subtasks"][asked.name] or [asked.name]
    for name in names:
        then = record["llm_expo"]["shots"].get(name, asked.shots)
        if then != asked.shots:
            raise EvaluationError(
                f"{folder / RESULTS_NAME}: {name} was asked with {_shots(then)}, and now with {_shots(asked.shots)}; "
                "take another --out"
            )
    return names


def enter(record: Record, asked: Asked, tasks: Sequence[str]) -> None:
    """Say in the record which tasks `asked` consists of, as lm-eval says it of groups."""
    record["group_subtasks"][asked.name] = [] if list(tasks) == [asked.name] else list(tasks)


def keep(folder: Path, record: Record, asked: Asked, found: Mapping[str, Any], samples: Sequence[Any]) -> None:
    """Add one finished task of those that `asked` consists of: its samples first, then the record."""
    [name] = found["results"]
    save_lines(folder / samples_name(name), samples)
    for part in _BY_TASK:
        record[part] |= found.get(part, {})
    record["llm_expo"]["shots"][name] = asked.shots
    save_json(folder / RESULTS_NAME, record)


def read_samples(folder: Path, task: str) -> list[Record]:
    """The items of a finished task, in its order. Raises EvaluationError for a file that is gone or broken."""
    path = folder / samples_name(task)
    if not path.exists():
        raise EvaluationError(f"{path}: no such file, though {RESULTS_NAME} has the task; take another --out")
    return load_lines(path)


def samples_name(task: str) -> str:
    """The file of a task's samples; a task's name may hold what a file's may not."""
    return f"samples_{task.replace('/', '__')}.jsonl"


def _shots(shots: int | None) -> str:
    return "the task's own shots" if shots is None else f"{shots} shots"
