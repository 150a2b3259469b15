"""The folder of a run: settings, lock, states, metrics."""

import json
from pathlib import Path

import pytest

from llm_expo.errors import OutputError
from llm_expo.training.folder import (
    METRICS,
    append_metrics,
    begun,
    forget_metrics_after,
    last_state,
    remove_unfinished_states,
    states_of,
    step_of,
)


def state(out: Path, step: int, text: str | None = '{"global_step": 0}') -> Path:
    folder = states_of(out) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if text is not None:
        (folder / "trainer_state.json").write_text(text)
    return folder


def test_the_same_settings_go_on_and_others_are_named(tmp_path: Path) -> None:
    settings = {"recipe": {"seed": 1, "save_at": (0.1, 2)}, "data": "abc"}
    with begun(tmp_path / "run", {**settings, "data": "of a recipe that never began"}):
        pass
    for _ in range(2):
        with begun(tmp_path / "run", settings):
            (tmp_path / "run/step-1").mkdir(exist_ok=True)
    with pytest.raises(OutputError, match=r"begun with recipe\.seed = 1, now it is 2; name a new folder"):
        with begun(tmp_path / "run", {**settings, "recipe": {"seed": 2, "save_at": [0.1, 2]}}):
            pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else, not a training"):
        with begun(tmp_path, {}):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with begun(tmp_path / "run", {}):
        with pytest.raises(OutputError, match="another run is at work in it"):
            with begun(tmp_path / "run", {}):
                pass


def test_a_state_counts_when_its_last_file_is_whole(tmp_path: Path) -> None:
    assert last_state(tmp_path) is None
    whole = state(tmp_path, 9)
    state(tmp_path, 10, None)
    state(tmp_path, 11, '{"global_')
    assert last_state(tmp_path) == whole
    assert step_of(whole) == 9
    remove_unfinished_states(tmp_path)
    assert [entry.name for entry in states_of(tmp_path).iterdir()] == ["checkpoint-9"]


def test_steps_are_counted_as_numbers(tmp_path: Path) -> None:
    state(tmp_path, 9)
    state(tmp_path, 10)
    assert step_of(last_state(tmp_path)) == 10


def test_metrics_of_steps_to_repeat_are_forgotten(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_metrics(tmp_path, {"step": step, "loss": 1 / step})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed here
    assert forget_metrics_after(tmp_path, 2) == {"step": 2, "loss": 0.5}
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert forget_metrics_after(tmp_path, 0) == {}
