"""What the full length-controlled win rate needs beside the judgements: AlpacaEval's `df_gamed.csv`.

A CSV with a row for each instruction and gamed baseline: `index`, `preference` in [0, 1], `std_delta_len` (length
difference in standard deviations) and `instruction_difficulty`. The user supplies it: AlpacaEval keeps it as a data set
of the hub (tatsu-lab/alpaca_eval), and nothing of it comes with this project.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_expo.errors import EvaluationError

_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True, slots=True)
class Gamed:
    """The baseline against itself, told to be brief or verbose, on one instruction."""

    share: float
    length: float
    difficulty: float


@dataclass(frozen=True, slots=True)
class Companion:
    """`difficulty` of each instruction by its index, and the gamed baselines."""

    source: str
    difficulty: Mapping[int, float]
    gamed: tuple[Gamed, ...]


def read_companion(path: Path) -> Companion:
    """Raises EvaluationError, naming file and line."""
    difficulty: dict[int, float] = {}
    gamed = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise EvaluationError(
                    f"{path}: no column {', '.join(missing)}; it has {', '.join(rows.fieldnames or ()) or 'nothing'}"
                )
            for row in rows:
                place = f"{path}, line {rows.line_num}"
                index, share, length, hard = (_number(row[name], name, place) for name in _COLUMNS)
                if not 0 <= share <= 1:
                    raise EvaluationError(f"{place}: preference is {share:g}, not from 0 to 1")
                if difficulty.setdefault(int(index), hard) != hard:
                    raise EvaluationError(f"{place}: instruction {int(index)} has another difficulty than before")
                gamed.append(Gamed(share, length, hard))
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file") from None
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: not CSV: {error}") from None
    if not gamed:
        raise EvaluationError(f"{path}: holds no rows")
    return Companion(str(path), difficulty, tuple(gamed))


def _number(text: str | None, name: str, place: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise EvaluationError(f"{place}: {name} is {text!r}, not a number")
    return number
