"""`llm-expo compare`: how far two checkpoints lie apart, or three."""

import argparse
from dataclasses import asdict
from pathlib import Path

from llm_expo.cli.options import Refuse, add_checkpoints, add_reading, name_checkpoints, print_json, reading


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `compare`'s."""
    add_checkpoints(
        parser, "; of three, they are the pre-trained, the SFT and the aligned one, as in the paper's Table 1"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the change by layer and kind of module")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_reading(parser, records=False)


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".svg":
        refuse("--plot draws SVG; give a name that ends in .svg")
    name_checkpoints(arguments, refuse, most=3)


def run(arguments: argparse.Namespace) -> None:
    """Measure, judge, show."""
    from llm_expo.terminal.weights import show_comparison, show_lineage
    from llm_expo.weights import Direction, chart, compare, compare_three, judge, judge_three
    from llm_expo.weights.comparison import as_json

    if arguments.plot is not None:
        chart.check_target(arguments.plot)
    how = reading(arguments)
    pair = Direction.open(arguments.theta0, arguments.theta1, **how)
    if arguments.aligned is None:
        comparison = compare(pair)
        judgement, rows, record = judge(comparison), {"theta0 → theta1": comparison}, as_json(comparison)
    else:
        aligned = Direction.open(arguments.theta1, arguments.aligned, **how).aligned
        lineage = compare_three(pair.initial, pair.aligned, aligned)
        judgement, rows, record = judge_three(lineage), lineage.rows(), as_json(lineage)
    if arguments.plot is not None:
        chart.write(rows, arguments.plot)
    if arguments.json:
        print_json({**record, "judgement": {**asdict(judgement), "sentence": str(judgement)}})
    elif arguments.aligned is None:
        show_comparison(comparison, judgement)
    else:
        show_lineage(lineage, judgement)
