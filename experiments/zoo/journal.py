"""Lines of JSON that outlive SIGKILL: a file is a sequence of whole lines, whatever its writer was doing at the end."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines; what a killed writer left behind the last of them is not one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line, in place of half a line if a killed writer left one."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A file of these lines, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    partial.rename(path)


def log(folder: Path, **entry: Any) -> None:
    """What happened, with figures and minutes."""
    append(folder / "log.jsonl", entry)
    print(json.dumps(entry), flush=True)


def minutes_since(clock: float) -> float:
    """`clock`: an earlier time.monotonic()."""
    return round((time.monotonic() - clock) / 60, 1)
