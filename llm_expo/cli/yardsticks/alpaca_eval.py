"""AlpacaEval 2.0: `llm-expo evaluate MODEL... --on alpaca_eval`."""

import argparse
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.cli.engines import opened, sampling_of
from llm_expo.cli.options import Refuse, print_json
from llm_expo.cli.scorers import judge_of, tell_bill
from llm_expo.errors import MissingExtraError

if TYPE_CHECKING:
    from llm_expo.evaluation.alpaca_eval.comparison import Compared


OWN = ("baseline", "template", "gamed")
"""The names of its own options."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Its own."""
    group = parser.add_argument_group("AlpacaEval")
    group.add_argument(
        "--baseline",
        metavar="FILE",
        help="instructions and the outputs that models are compared with: AlpacaEval's JSON, or "
        "hub:ORG/DATASET/FILE; default: AlpacaEval 2.0's, from the hub",
    )
    group.add_argument(
        "--template", type=Path, metavar="FILE", help="the judge's words, in AlpacaEval's layout; default: our own"
    )
    group.add_argument(
        "--gamed",
        metavar="FILE",
        help="AlpacaEval's df_gamed.csv, for the full length-controlled win rate; without it, the minimal form",
    )


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.template is not None and arguments.judge is None:
        refuse("--template goes with --judge")


def run(arguments: argparse.Namespace) -> None:
    """Outputs of every model; with a judge, its judgements and the figures."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("scikit-learn", "evaluate")
    from llm_expo import terminal
    from llm_expo.evaluation.alpaca_eval.companion import read_companion
    from llm_expo.evaluation.alpaca_eval.comparison import compare_models
    from llm_expo.evaluation.alpaca_eval.judge import asker, read_template
    from llm_expo.evaluation.alpaca_eval.outputs import BASELINE, first, read_outputs, within
    from llm_expo.evaluation.alpaca_eval.run import judge_outputs, make_outputs
    from llm_expo.evaluation.files import fetched
    from llm_expo.evaluation.models import read_models

    models = read_models(arguments.models)
    baseline = first(read_outputs(fetched(arguments.baseline or BASELINE)), arguments.limit)
    companion = None if arguments.gamed is None else read_companion(fetched(arguments.gamed))
    template = read_template(arguments.template)
    judge = judge_of(arguments)
    if judge is not None:
        judge.check(asker(judge, template))
    with terminal.counted() as watch:
        engines = opened(arguments, sampling_of(arguments))
        outputs = make_outputs(models, baseline, engines, arguments.out, arguments.batch_size, watch)
        if judge is not None:
            asked = (
                outputs.values() if arguments.limit is None else [within(each, baseline) for each in outputs.values()]
            )
            found = judge_outputs(models, list(asked), baseline, judge, template, arguments.out, watch)
    if judge is None:
        for path in outputs:
            terminal.show_line(str(path))
        terminal.note("--judge MODEL@URL judges these; judged elsewhere, --annotations takes the judgements")
        return
    tell_bill(judge, asker(judge, template))
    _show(compare_models(found, companion), arguments.json)


def run_elsewhere(arguments: argparse.Namespace) -> None:
    """Figures of judgements made elsewhere."""
    from llm_expo.evaluation.alpaca_eval.annotations import read_annotations
    from llm_expo.evaluation.alpaca_eval.companion import read_companion
    from llm_expo.evaluation.alpaca_eval.comparison import compare_models
    from llm_expo.evaluation.files import fetched

    companion = None if arguments.gamed is None else read_companion(fetched(arguments.gamed))
    _show(compare_models([read_annotations(path) for path in arguments.annotations], companion), arguments.json)


def _show(compared: "Compared", as_json: bool) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.alpaca_eval import words

    if as_json:
        print_json(asdict(compared))
        return
    terminal.show_table(words.COLUMNS, words.table(compared))
    for line in words.lines(compared):
        terminal.show_line(line)
