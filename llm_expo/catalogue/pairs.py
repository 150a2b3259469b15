"""A catalogue of pairs: its TOML file, checked, and the pair of a name. Knows no checkpoints."""

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llm_expo.errors import CatalogueError

PAPER = Path(__file__).with_name("pairs.toml")
"""The pairs of the paper: 12 released models (Table 5), zephyr-7b-dpo (Table 2), 14 by other algorithms (Table 6)."""

FIGURES = {
    "reward": "reward",
    "win_rate": "AlpacaEval 2.0 win rate, %",
    "lc_win_rate": "AlpacaEval 2.0 length-controlled win rate, %",
    "mt_bench": "MT-Bench, 1 to 10",
}
"""What a catalogue may hold results of."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A figure of theta1, and of theta(alpha) where it was published."""

    aligned: float
    extrapolated: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One pair and what was published of it.

    `initial` and `aligned` are what the command line takes for theta0 and theta1. No `alpha`: none was published.
    `billions` of parameters are for estimates only. `remote_code`: whoever runs the model runs code that lies with it.
    """

    name: str
    initial: str
    aligned: str
    training: str = ""
    source: str = ""
    alpha: float | None = None
    billions: float | None = None
    remote_code: bool = False
    results: Mapping[str, Gain] = field(default_factory=dict)


def read_catalogue(path: Path = PAPER) -> list[Pair]:
    """The pairs of a TOML file, in its order; a folder seen from the catalogue's own becomes absolute.

    Raises CatalogueError, naming the file and the pair.
    """
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CatalogueError(f"{path}: no such file") from None
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogueError(f"{path}: not TOML: {error}") from None
    entries = stated.pop("pair", None)
    if stated or not isinstance(entries, list) or not entries:
        held = ", ".join(stated) or "no [[pair]]"
        raise CatalogueError(f"{path}: a catalogue holds tables [[pair]] and nothing else; this holds {held}")
    pairs: dict[str, Pair] = {}
    for number, entry in enumerate(entries, start=1):
        pair = _pair(entry, path, f"{path}: pair {number}")
        if pair.name in pairs:
            raise CatalogueError(f"{path}: pair {number}: the name {pair.name!r} stands there twice")
        pairs[pair.name] = pair
    return list(pairs.values())


def find(pairs: Sequence[Pair], name: str) -> Pair:
    """The pair of that name. Raises CatalogueError with the nearest names."""
    for pair in pairs:
        if pair.name == name:
            return pair
    near = difflib.get_close_matches(name, [pair.name for pair in pairs], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`llm-expo pairs` lists them"
    raise CatalogueError(f"no pair is called {name!r}; {hint}")


def _pair(entry: Any, path: Path, place: str) -> Pair:
    if not isinstance(entry, Mapping):
        raise CatalogueError(f"{place}: not a table")
    if isinstance(entry.get("name"), str):
        place = f"{path}: {entry['name']}"
    known = [each.name for each in fields(Pair)]
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise CatalogueError(
                f"{place}: unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"there are {known}")
            )
    for key in ("name", "initial", "aligned"):
        if key not in entry:
            raise CatalogueError(f"{place}: {key} is missing")
    stated = dict(entry)
    for key in ("name", "initial", "aligned", "training", "source"):
        if key in stated and (not isinstance(stated[key], str) or not stated[key].strip()):
            raise CatalogueError(f"{place}: {key} is {stated[key]!r}, not a text")
    for key in ("alpha", "billions"):
        if key in stated:
            stated[key] = _number(stated[key], key, place)
    if not isinstance(stated.get("remote_code", False), bool):
        raise CatalogueError(f"{place}: remote_code is {stated['remote_code']!r}, not true or false")
    stated["results"] = _results(stated.get("results", {}), place)
    for key in ("initial", "aligned"):
        stated[key] = _beside(path, stated[key])
    return Pair(**stated)


def _results(stated: Any, place: str) -> dict[str, Gain]:
    if not isinstance(stated, Mapping):
        raise CatalogueError(f"{place}: results is {stated!r}, not a table")
    results = {}
    for key, figures in stated.items():
        if key not in FIGURES:
            raise CatalogueError(f"{place}: unknown results.{key}; there are {', '.join(FIGURES)}")
        if not isinstance(figures, list) or len(figures) not in (1, 2):
            raise CatalogueError(
                f"{place}: results.{key} is {figures!r}, not [theta1's] or [theta1's, theta(alpha)'s figure]"
            )
        results[key] = Gain(*(_number(each, f"results.{key}", place) for each in figures))
    return results


def _number(value: Any, key: str, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CatalogueError(f"{place}: {key} is {value!r}, not a number")
    return float(value)


def _beside(path: Path, named: str) -> str:
    """Absolute, if `named` is a folder seen from the catalogue's; otherwise as it is."""
    found = path.parent / Path(named).expanduser()
    return str(found.resolve()) if found.is_dir() else named
