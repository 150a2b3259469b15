"""lm-evaluation-harness: `llm-expo evaluate MODEL... --on lm_eval`, and the tax from results made elsewhere."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_expo.cli.engines import whole_of
from llm_expo.cli.options import Refuse, print_json
from llm_expo.errors import EvaluationError, MissingExtraError

if TYPE_CHECKING:
    from llm_expo.evaluation.lm_eval.run import Manner
    from llm_expo.evaluation.lm_eval.tax import Cell


OWN = ("tasks", "tasks_from", "fast", "chat_template")
"""The names of its own options."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Its own."""
    group = parser.add_argument_group("lm-evaluation-harness")
    group.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="NAME or NAME:SHOTS, its tasks, groups or tags; default: leaderboard, the paper's six with its shots",
    )
    group.add_argument("--tasks-from", type=Path, metavar="DIR", help="tasks of your own beside them, as YAML")
    group.add_argument("--fast", action="store_true", help="tinyBenchmarks: the six by 100 items each")
    group.add_argument(
        "--chat-template",
        action="store_true",
        help="ask through each model's chat template; default: plain text, as leaderboards do",
    )


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.engine == "ray":
        refuse("--on lm_eval asks models through transformers or vllm, not ray")
    if arguments.fast and arguments.tasks is not None:
        refuse("--fast is a choice of tasks; give it or --tasks")
    if arguments.judge is not None:
        refuse("--judge goes with another yardstick: lm_eval's tasks have right answers")


def run(arguments: argparse.Namespace) -> None:
    """Put the tasks to every model; scores, the tax item by item, and what the right answers' likelihoods say."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError("lm-eval", "lm-eval")
    # Its bars, drawn over ours. Read when tqdm is first imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from llm_expo import terminal
    from llm_expo.evaluation.lm_eval import words
    from llm_expo.evaluation.lm_eval.paired import gold_cells, score_cells
    from llm_expo.evaluation.lm_eval.results import columns, read_results
    from llm_expo.evaluation.lm_eval.run import measure
    from llm_expo.evaluation.lm_eval.tasks import FAST, read_tasks
    from llm_expo.evaluation.models import read_models
    from llm_expo.weights import Direction

    models = read_models(arguments.models)
    for model in models:
        if model.is_file:
            raise EvaluationError(f"{model.place}: is a file; results made elsewhere go to --results")
    # What tasks print is not the result.
    with redirect_stdout(sys.stderr), terminal.counted() as watch:
        answered = measure(
            models,
            lambda model: whole_of(arguments, Direction.alone(model.place)),
            FAST if arguments.fast else read_tasks(arguments.tasks or "leaderboard"),
            arguments.out,
            manner_of(arguments, arguments.out, arguments.limit, arguments.batch_size),
            watch,
        )
    shown = columns(answered[0].items)
    results = [each for model in models for each in read_results(arguments.out / model.name / "results.json")]
    results = [replace(each, scores={name: each.scores[name] for name in shown}) for each in results]
    cells, golds = score_cells(answered), gold_cells(answered)
    if arguments.json:
        scores = {each.model: {task: asdict(score) for task, score in each.scores.items()} for each in results}
        told = {"chat_template": arguments.chat_template, "scores": scores}
        print_json({**told, "cells": _plain(cells), "gold_log_likelihood": _plain(golds)})
        return
    fast = [words.FAST] if arguments.fast else []
    _show(words.score_table(results), [words.asked_by(arguments.chat_template), *fast])
    if cells:
        _show(words.table(cells), [words.HOW_TO_READ_PAIRED, *words.standing_out(cells)])
    if golds:
        _show(words.table(golds, digits=3), [words.HOW_TO_READ_GOLD])


def run_elsewhere(arguments: argparse.Namespace) -> None:
    """The tax by results that are there."""
    from llm_expo.evaluation.lm_eval import words
    from llm_expo.evaluation.lm_eval.results import read_results
    from llm_expo.evaluation.lm_eval.tax import pair_up, tax

    cells = tax(pair_up([each for path in arguments.results for each in read_results(path)]))
    if arguments.json:
        print_json({"cells": _plain(cells)})
        return
    _show(words.table(cells), [words.HOW_TO_READ, *words.standing_out(cells)])


def manner_of(arguments: argparse.Namespace, out: Path, limit: int | None, batch_size: int) -> "Manner":
    """How the options want tasks put: by vLLM, whose log is in `out`, if that is the engine that was asked for."""
    from llm_expo.evaluation.lm_eval.run import Manner

    vllm = None
    if arguments.engine == "vllm":
        from llm_expo.evaluation.lm_eval.on_vllm import OnVllm

        parallel = arguments.tensor_parallel or 1
        vllm = OnVllm(arguments.vllm_python, parallel, arguments.device_memory, out / "vllm.log")
    return Manner(
        tasks_from=arguments.tasks_from,
        chat=arguments.chat_template,
        limit=limit,
        batch_size=batch_size,
        vllm=vllm,
    )


def _plain(cells: "Sequence[Cell]") -> list[dict[str, Any]]:
    return [{**asdict(cell), "difference": cell.difference} for cell in cells]


def _show(rows: Sequence[tuple[str, ...]], lines: Sequence[str]) -> None:
    from llm_expo import terminal

    head, *others = rows
    terminal.show_table(head, others)
    for line in lines:
        terminal.show_line(line)
