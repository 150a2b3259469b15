"""lm-evaluation-harness: `llm-expo evaluate MODEL... --on lm_eval`, and the tax from results made elsewhere."""

import argparse
from dataclasses import asdict

from llm_expo.cli.options import print_json


def run_results(arguments: argparse.Namespace) -> None:
    """The tax by results that are there."""
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
