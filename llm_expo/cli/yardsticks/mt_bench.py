"""MT-Bench: `llm-expo evaluate MODEL... --on mt_bench`."""

import argparse
import importlib.util
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.cli.engines import opened, sampling_of
from llm_expo.cli.options import Refuse, print_json
from llm_expo.cli.scorers import judge_of, tell_bill
from llm_expo.errors import MissingExtraError

if TYPE_CHECKING:
    from llm_expo.evaluation.mt_bench.scores import Compared

_JUDGE_WRITES_FOR = 600.0
"""Seconds: an explanation of up to 2048 tokens, eight of them at once, from a server of one's own."""


OWN = ("questions",)
"""The names of its own options."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Its own."""
    group = parser.add_argument_group(
        "MT-Bench",
        "a temperature for each category, 1024 tokens and no penalties, as in the original, unless the options for "
        "sampling say otherwise",
    )
    group.add_argument(
        "--questions",
        type=Path,
        metavar="DIR",
        help="questions, reference answers and the judge's prompts, in FastChat's layout (docs/evaluation.md tells "
        "where they are)",
    )


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.questions is None:
        refuse("--on mt_bench needs --questions DIR (docs/evaluation.md tells where they are)")


def run(arguments: argparse.Namespace) -> None:
    """Answers of every model; with a judge, its judgements and the scores."""
    _see_to_scipy()
    from llm_expo import terminal
    from llm_expo.evaluation.models import read_models
    from llm_expo.evaluation.mt_bench.answers import read_references
    from llm_expo.evaluation.mt_bench.judge import asker, read_templates
    from llm_expo.evaluation.mt_bench.questions import first, read_questions
    from llm_expo.evaluation.mt_bench.run import judge_answers, make_answers
    from llm_expo.evaluation.mt_bench.scores import compare_models

    models = read_models(arguments.models)
    questions = first(read_questions(arguments.questions), arguments.limit)
    judge = judge_of(arguments, timeout=_JUDGE_WRITES_FOR)
    if judge is not None:
        templates = read_templates(arguments.questions)
        references = read_references(arguments.questions, questions)
        judge.check(asker(judge))
    with terminal.counted() as watch:
        answers = make_answers(
            models,
            questions,
            partial(sampling_of, arguments),
            lambda model, sampling: opened(arguments, sampling)(model),
            arguments.out,
            arguments.batch_size,
            watch,
        )
        if judge is not None:
            made = list(answers.values())
            judged = judge_answers(models, made, questions, templates, references, judge, arguments.out, watch)
    if judge is None:
        for path in answers:
            terminal.show_line(str(path))
        terminal.note("--judge MODEL@URL judges these; judged elsewhere, --judgements takes the judgements")
        return
    tell_bill(judge, asker(judge))
    _show(compare_models(judged, {each.id: each.category for each in questions}), arguments.json)


def run_elsewhere(arguments: argparse.Namespace) -> None:
    """Scores of judgements made elsewhere; by category where the questions are given."""
    _see_to_scipy()
    from llm_expo.evaluation.mt_bench.judgements import read_judgements
    from llm_expo.evaluation.mt_bench.questions import read_questions
    from llm_expo.evaluation.mt_bench.scores import compare_models

    categories = None
    if arguments.questions is not None:
        categories = {each.id: each.category for each in read_questions(arguments.questions)}
    _show(compare_models(read_judgements(arguments.judgements), categories), arguments.json)


def _see_to_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtraError("scipy", "evaluate")


def _show(compared: "Compared", as_json: bool) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.mt_bench import words

    if as_json:
        print_json(asdict(compared))
        return
    head, *rows = words.totals(compared)
    terminal.show_table(head, rows)
    if compared.models[0].categories:
        head, *rows = words.categories(compared)
        terminal.show_table(head, rows)
    for line in words.lines(compared):
        terminal.show_line(line)
