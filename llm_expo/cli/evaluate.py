"""`llm-expo evaluate`: the paper's yardsticks, with errors."""

import argparse
from dataclasses import asdict
from pathlib import Path

from llm_expo.cli.options import Refuse, print_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `evaluate`'s."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="AlpacaEval's judgements, a file for each model, the reference first",
    )
    given.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="benchmark results: what lm-evaluation-harness writes, the reference first, or several models in one file",
    )
    parser.add_argument(
        "--gamed",
        type=Path,
        metavar="FILE",
        help="AlpacaEval's df_gamed.csv, for the full length-controlled win rate; without it, the minimal form",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.gamed is not None and not arguments.annotations:
        refuse("--gamed goes with --annotations")


def run(arguments: argparse.Namespace) -> None:
    """Show figures of what was judged or measured elsewhere."""
    if arguments.results:
        _evaluate_results(arguments)
    else:
        _evaluate_annotations(arguments)


def _evaluate_annotations(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.alpaca_eval import words
    from llm_expo.evaluation.alpaca_eval.annotations import read_annotations
    from llm_expo.evaluation.alpaca_eval.companion import read_companion
    from llm_expo.evaluation.alpaca_eval.comparison import compare_models

    companion = None if arguments.gamed is None else read_companion(arguments.gamed)
    compared = compare_models([read_annotations(path) for path in arguments.annotations], companion)
    if arguments.json:
        print_json(asdict(compared))
        return
    terminal.show_table(words.COLUMNS, words.table(compared))
    for line in words.lines(compared):
        terminal.show_line(line)


def _evaluate_results(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.lm_eval import words
    from llm_expo.evaluation.lm_eval.results import read_results
    from llm_expo.evaluation.lm_eval.tax import pair_up, tax

    cells = tax(pair_up([each for path in arguments.results for each in read_results(path)]))
    if arguments.json:
        print_json({"cells": [{**asdict(cell), "difference": cell.difference} for cell in cells]})
        return
    head, *rows = words.table(cells)
    terminal.show_table(head, rows)
    for line in [words.HOW_TO_READ, *words.standing_out(cells)]:
        terminal.show_line(line)
