"""`llm-expo evaluate`: the paper's yardsticks, with errors."""

import argparse
from pathlib import Path
from types import ModuleType

from llm_expo.cli.engines import add_engine_options, add_sampling_options, check_engine
from llm_expo.cli.options import Refuse, positive
from llm_expo.cli.scorers import add_judge_options
from llm_expo.cli.yardsticks import alpaca_eval, lm_eval, mt_bench

YARDSTICKS: dict[str, ModuleType] = {"alpaca_eval": alpaca_eval, "mt_bench": mt_bench, "lm_eval": lm_eval}


ELSEWHERE = {"annotations": "alpaca_eval", "judgements": "mt_bench", "results": "lm_eval"}
"""Options that take what was judged or measured elsewhere, and whose it is."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `evaluate`'s."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="PLACE or NAME=PLACE, the reference first: a checkpoint (folder, hub id, adapter, difference), or a file "
        "of what a model answered elsewhere",
    )
    parser.add_argument("--on", choices=tuple(YARDSTICKS), help="the yardstick")
    parser.add_argument("--out", type=Path, metavar="DIR", help="what is made is kept here; run again, it goes on")
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="the first N questions only (of MT-Bench: of each category), to try it out",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="instead of models: AlpacaEval's judgements, a file for each model, the reference first",
    )
    parser.add_argument(
        "--judgements",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="instead of models: MT-Bench's judgements as FastChat writes them, the reference first, or several models "
        "in one file",
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="instead of models: benchmark results, what lm-evaluation-harness writes, the reference first, or "
        "several models in one file",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_judge_options(parser)
    for yardstick in YARDSTICKS.values():
        yardstick.add_options(parser)
    add_sampling_options(parser)
    machine = add_engine_options(parser, "--engine")
    machine.add_argument("--batch-size", type=positive, default=32, help="prompts at once; default: %(default)s")


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    given = [arguments.models, arguments.annotations, arguments.judgements, arguments.results]
    if sum(map(bool, given)) != 1:
        refuse(
            "give MODEL... --on YARDSTICK --out DIR, or --annotations FILE..., or --judgements FILE..., "
            "or --results FILE..."
        )
    if arguments.models and (arguments.on is None or arguments.out is None):
        refuse("--on and --out are required with MODEL")
    for way, name in ELSEWHERE.items():
        if getattr(arguments, way):
            arguments.on = name
    for name, yardstick in YARDSTICKS.items():
        for option in yardstick.OWN:
            if name != arguments.on and getattr(arguments, option) not in (None, False):
                refuse(f"--{option.replace('_', '-')} goes with --on {name}")
    check_engine(arguments, refuse)
    if arguments.models:
        YARDSTICKS[arguments.on].check(arguments, refuse)


def run(arguments: argparse.Namespace) -> None:
    """Measure models, or show figures of what was judged or measured elsewhere."""
    yardstick = YARDSTICKS[arguments.on]
    if arguments.models:
        yardstick.run(arguments)
    else:
        yardstick.run_elsewhere(arguments)
