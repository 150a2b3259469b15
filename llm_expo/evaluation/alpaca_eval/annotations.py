"""Judgements in AlpacaEval's file format: a JSON list, gzipped or not. Knows no figures and no judge.

`preference` is 1 where the baseline's output_1 won, 2 where the model's output_2 did, between them where the judge's
probabilities were weighed, 1.5 or 0 for a draw, null where there is no verdict.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import load_json, save_json


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judged instruction. `share` in [0, 1] of the preference went to the model; None: no verdict.

    `index` is the instruction's place in AlpacaEval's own order.
    """

    index: int
    instruction: str
    baseline_output: str
    output: str
    share: float | None


@dataclass(frozen=True, slots=True)
class Annotations:
    """All judgements of one model against one baseline by one judge. `indexed`: the file itself told every index."""

    source: str
    model: str
    baseline: str
    annotator: str
    indexed: bool
    items: tuple[Annotation, ...]


def read_annotations(path: Path) -> Annotations:
    """The judgements of a file. An annotation without `index` has its position in the file as one.

    Raises EvaluationError, naming file and annotation.
    """
    loaded = load_json(path)
    if not isinstance(loaded, list) or not loaded:
        raise EvaluationError(f"{path}: annotations are a list of objects, this is {_shown(loaded)}")
    items = []
    named: dict[str, Any] = {}
    indexed = 0
    for number, record in enumerate(loaded):
        place = f"{path}, annotation {number + 1}"
        if not isinstance(record, Mapping):
            raise EvaluationError(f"{place}: not an object but {records.kind(record)}")
        for key, usual in (("generator_1", "baseline"), ("generator_2", "model"), ("annotator", "")):
            value = record.get(key) or usual
            if named.setdefault(key, value) != value:
                raise EvaluationError(
                    f"{place}: {key} is {value!r}, and {named[key]!r} before; put each model, baseline and judge into "
                    "a file of its own"
                )
        indexed += "index" in record
        items.append(_annotation(record, number, place))
    if indexed not in (0, len(items)):
        raise EvaluationError(f"{path}: {indexed} of {len(items)} annotations have an `index`; give all of them one")
    places: dict[int, int] = {}
    for number, item in enumerate(items, start=1):
        if places.setdefault(item.index, number) != number:
            raise EvaluationError(f"{path}: annotations {places[item.index]} and {number} both have index {item.index}")
    model, baseline = str(named["generator_2"]), str(named["generator_1"])
    return Annotations(str(path), model, baseline, str(named["annotator"]), indexed > 0, tuple(items))


def write_annotations(path: Path, annotations: Annotations) -> None:
    """In AlpacaEval's format, each with its `index`, which its own tools take for the instruction's place, too."""
    save_json(
        path,
        [
            {
                "index": each.index,
                "instruction": each.instruction,
                "output_1": each.baseline_output,
                "generator_1": annotations.baseline,
                "output_2": each.output,
                "generator_2": annotations.model,
                "annotator": annotations.annotator,
                "preference": None if each.share is None else 1 + each.share,
            }
            for each in annotations.items
        ],
    )


def _annotation(record: Mapping[str, Any], number: int, place: str) -> Annotation:
    for key in ("instruction", "output_1", "output_2"):
        if not isinstance(record.get(key), str):
            told = f"{key} is {records.kind(record[key])}, not a text" if key in record else f"no `{key}`"
            raise EvaluationError(f"{place}: {told}; it has {', '.join(map(str, record))}")
    index = record.get("index", number)
    if isinstance(index, bool) or not isinstance(index, int):
        raise EvaluationError(f"{place}: index is {index!r}, not a whole number")
    if "preference" not in record:
        raise EvaluationError(f"{place}: no `preference`; it has {', '.join(map(str, record))}")
    share = _share(record["preference"], place)
    return Annotation(index, record["instruction"], record["output_1"], record["output_2"], share)


def _share(preference: Any, place: str) -> float | None:
    if preference is None or (isinstance(preference, float) and math.isnan(preference)):
        return None
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise EvaluationError(f"{place}: preference is {records.kind(preference)}, not a number from 1 to 2 or null")
    if preference == 0:
        return 0.5
    if not 1 <= preference <= 2:
        raise EvaluationError(
            f"{place}: preference is {preference:g}; it is 1 for output_1, 2 for output_2, or between, 0 for a draw"
        )
    return float(preference) - 1


def _shown(value: Any) -> str:
    return "an empty list" if value == [] else records.kind(value)
