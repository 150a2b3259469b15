"""Models' outputs in AlpacaEval's format: a JSON list of {dataset, instruction, output, generator}. Knows no judge.

Its leaderboard tools read what is written here, and outputs made elsewhere are read, the baseline's among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from llm_expo import records
from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import load_json, save_json

BASELINE = "hub:tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json"
"""AlpacaEval 2.0's instructions with the outputs of its baseline, GPT-4 Turbo."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one model (`generator`) answered: output and data set by instruction, in the file's order."""

    source: str
    generator: str
    texts: Mapping[str, str]
    datasets: Mapping[str, str]


def read_outputs(path: Path) -> Outputs:
    """Raises EvaluationError, naming file and record."""
    loaded = load_json(path)
    if not isinstance(loaded, list) or not loaded:
        raise EvaluationError(f"{path}: outputs are a list of objects, this is {records.kind(loaded)}")
    texts: dict[str, str] = {}
    datasets: dict[str, str] = {}
    generator = ""
    for number, record in enumerate(loaded, start=1):
        place = f"{path}, output {number}"
        if not isinstance(record, Mapping):
            raise EvaluationError(f"{place}: not an object but {records.kind(record)}")
        for key in ("instruction", "output"):
            if not isinstance(record.get(key), str):
                raise EvaluationError(f"{place}: no text `{key}`; it has {', '.join(map(str, record))}")
        instruction = record["instruction"]
        if instruction in texts:
            raise EvaluationError(f"{place}: {instruction[:60]!r} is answered twice")
        named = str(record.get("generator") or path.name.split(".")[0])
        if generator not in ("", named):
            raise EvaluationError(f"{place}: the generator is {named!r}, and {generator!r} before; one model a file")
        generator = named
        texts[instruction] = record["output"]
        datasets[instruction] = str(record.get("dataset") or "")
    return Outputs(str(path), generator, texts, datasets)


def write_outputs(path: Path, outputs: Outputs) -> None:
    save_json(
        path,
        [
            {
                "dataset": outputs.datasets.get(instruction, ""),
                "instruction": instruction,
                "output": text,
                "generator": outputs.generator,
            }
            for instruction, text in outputs.texts.items()
        ],
    )


def first(outputs: Outputs, count: int | None) -> Outputs:
    """Those to the first `count` instructions; None is all."""
    return replace(outputs, texts=dict(islice(outputs.texts.items(), count)))


def within(outputs: Outputs, baseline: Outputs) -> Outputs:
    """Those to the baseline's instructions."""
    return replace(outputs, texts={each: text for each, text in outputs.texts.items() if each in baseline.texts})


def same_instructions(outputs: Outputs, baseline: Outputs) -> Sequence[str]:
    """The baseline's instructions, in its order.

    Raises EvaluationError where the two did not answer the same ones.
    """
    for has, lacks in ((baseline, outputs), (outputs, baseline)):
        if alone := [each for each in has.texts if each not in lacks.texts]:
            raise EvaluationError(
                f"{has.source} answers {len(has.texts)} instructions and {lacks.source} {len(lacks.texts)}; "
                f"{len(alone)} of the former are not among the latter, such as {alone[0][:60]!r}"
            )
    return list(baseline.texts)
