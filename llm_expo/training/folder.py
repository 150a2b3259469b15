"""The folder of a run: whom it belongs to, what it was begun with, where a killed run goes on. Knows no models.

OUT/recipe.json      what the run was begun with: another recipe, theta0 or data is refused
OUT/metrics.jsonl    a line for each step
OUT/step-N           a model that the recipe asked for at step N; a folder of this name is whole
OUT/model            the last one
OUT/work/            the records as TRL takes them, and the last state; goes when the run is finished
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_expo.checkpoints.files import shown
from llm_expo.errors import OutputError

SETTINGS, METRICS = "recipe.json", "metrics.jsonl"

# TRL's names: a state's folder, and the file in it that is written last.
_STATE, _WRITTEN_LAST = "checkpoint-", "trainer_state.json"


def records_of(out: Path) -> Path:
    return out / "work" / "records"


def states_of(out: Path) -> Path:
    return out / "work" / "states"


@contextmanager
def begun(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Take hold of `out` for one run with these settings (JSON), and let go of it afterwards.

    Raises OutputError: in use, begun with other settings (which are named), or a folder of something else.
    """
    stated = out / SETTINGS
    if out.exists() and not stated.exists() and any(entry.name != "lock" for entry in out.iterdir()):
        raise OutputError(f"{shown(out)}: holds something else, not a training; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    fd = os.open(out / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{shown(out)}: another run is at work in it") from None
        if _has_begun(out):
            _same_settings(out, _read(stated), json.loads(json.dumps(settings)))
        else:  # nothing was trained yet, so another recipe may take the place of the one before
            unfinished = out / f"{SETTINGS}.partial"
            unfinished.write_text(json.dumps(settings, indent=2) + "\n")
            unfinished.rename(stated)
            shutil.rmtree(out / "work", ignore_errors=True)
        yield
    finally:
        os.close(fd)


def _has_begun(out: Path) -> bool:
    """Whether a state or a model of an earlier run is there."""
    return (out / SETTINGS).exists() and any(
        any(out.glob(pattern)) for pattern in ("model", "step-*", f"work/states/{_STATE}*")
    )


def _read(stated: Path) -> dict[str, Any]:
    try:
        settings = json.loads(stated.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise OutputError(f"{shown(stated)}: does not say what this training was begun with; name a new folder")
    return settings


def _same_settings(out: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    before, after = _flat(then), _flat(now)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise OutputError(
                f"{shown(out)}: was begun with {key} = {json.dumps(before.get(key))}, now it is "
                f"{json.dumps(after.get(key))}; name a new folder, or go back to that"
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def last_state(out: Path) -> Path | None:
    """The state to go on from, None for a new run."""
    whole = [state for state in states_of(out).glob(f"{_STATE}*") if _is_whole(state)]
    return max(whole, key=step_of, default=None)


def remove_unfinished_states(out: Path) -> None:
    for state in states_of(out).glob(f"{_STATE}*"):
        if not _is_whole(state):
            shutil.rmtree(state)


def step_of(state: Path | None) -> int:
    return int(state.name.removeprefix(_STATE)) if state is not None else 0


def _is_whole(state: Path) -> bool:
    try:
        json.loads((state / _WRITTEN_LAST).read_text())
    except (OSError, ValueError):
        return False
    return True


def append_metrics(out: Path, row: dict[str, Any]) -> None:
    with (out / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def forget_metrics_after(out: Path, step: int) -> dict[str, Any]:
    """Drop the lines of steps that will be trained again; the line that a kill tore is one of these.

    Returns the last line that stays, or nothing.
    """
    path = out / METRICS
    last: dict[str, Any] = {}
    if not path.exists():
        return last
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step:
            kept.append(line + "\n")
            last = row
    unfinished = path.with_name(f"{METRICS}.partial")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.rename(path)
    return last
