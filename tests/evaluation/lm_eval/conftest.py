"""`evaluate --on lm_eval` in a folder with local tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from local_tasks import write_tasks

from llm_expo.cli import main

TASKS = "choose:2,mc2,generate"


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return write_tasks(tmp_path / "tasks")


@pytest.fixture
def evaluate(capsys) -> Callable[..., tuple[int, str, list[str]]]:
    """evaluate(*arguments, tasks=TASKS) -> the exit status, standard output, the lines of standard error but bars."""

    def run(*arguments: str, asked: str = TASKS) -> tuple[int, str, list[str]]:
        usual = ["--on", "lm_eval", "--tasks-from", "tasks", "--out", "out"]
        status = main(["evaluate", *arguments, *usual, *(["--tasks", asked] if asked else [])])
        out, err = capsys.readouterr()
        lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "it/s]" not in line]
        return status, out, [line for line in lines if "?it/s" not in line]

    return run
