"""`llm-expo search`: alpha found, confirmed, written and reported."""

import argparse
import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.cli.engines import add_engine_options, add_sampling_options, check_engine, engine_of, sampling_of
from llm_expo.cli.options import (
    Refuse,
    add_checkpoints,
    add_reading,
    name_checkpoints,
    numbers,
    positive,
    print_json,
    reading,
)
from llm_expo.cli.scorers import add_judge_terms, scorers_of
from llm_expo.cli.tax import add_tax_options, check_tax, limit_of
from llm_expo.errors import MissingExtraError

if TYPE_CHECKING:
    from llm_expo.search import Strategy


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `search`'s."""
    parser.description = (
        "Find alpha by inference: theta(alpha) = theta1 + alpha * (theta1 - theta0) answers a part of the prompts, at "
        "more and more alphas, and is left where it collapses. The best one meets theta1 on the other prompts, with "
        "fresh noise. The verdict is the first that holds: COLLAPSE (its replies came apart), NO GAIN, UNDERPOWERED "
        "(more prompts would decide), SCORERS DISAGREE, GAIN IS LENGTH, or SHIP: then the model is in STUDY/model. "
        "docs/search.md has it all."
    )
    add_checkpoints(parser)
    parser.add_argument(
        "--scorer",
        required=True,
        action="append",
        help="reward-model:PATH_OR_ID (sequence classification, raw logit), function:package.module:name "
        "(conversations to floats), judge:MODEL@URL or file:SCORES.jsonl (docs/scoring.md); give it twice: the "
        "first one chooses, and cannot see it if it is being gamed, the second one checks",
    )
    add_judge_terms(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STUDY", help="study folder; an unfinished one goes on"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSONL with `prompt` or `messages` and optionally `id`, or hub:DATASET:SPLIT[:FIELD]; "
        "default: 320 prompts that come along",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use the first N prompts only")
    parser.add_argument("--confirm-share", type=float, default=1 / 3, help="prompts set aside; default: a third")
    parser.add_argument("--extend", action="store_true", help="add those prompts that the study does not hold yet")

    parser.add_argument("--strategy", choices=("race", "grid", "paper"), default="race", help="default: %(default)s")
    parser.add_argument(
        "--budget",
        metavar="AMOUNT",
        help="of --strategy race, for the search prompts: '500' completions, '2e5 tokens' or '45 minutes'; default: "
        "two completions for each search prompt",
    )
    parser.add_argument(
        "--choose",
        choices=("best", "one-se", "fluent"),
        default="fluent",
        help="which of the alphas tried: the best, the smallest within a standard error of it, or the best of those "
        "whose replies stay as fluent and diverse as theta1's; default: %(default)s",
    )
    parser.add_argument(
        "--min-gain",
        type=float,
        metavar="REWARD",
        help="the least gain that matters; default: a tenth of the standard deviation of theta1's rewards, or 0.05 "
        "where a judge chooses",
    )
    parser.add_argument(
        "--alphas",
        type=numbers,
        metavar="A,B,...",
        help="which a race chooses from (default: from -0.5 to 30) or a grid tries (default: 0.1,0.2,0.3,0.4,0.5)",
    )
    parser.add_argument(
        "--intervals",
        type=numbers,
        metavar="WIDE,...",
        help="of --strategy paper, from wide to narrow; the paper used 5,1 (for a model after 10 %% of its training), "
        "2,1,0.5 (20 %%; the default) and 0.1 (40 and 100 %%)",
    )

    add_tax_options(parser)
    add_sampling_options(parser)
    machine = add_engine_options(parser, "--on", "--engine")
    machine.add_argument("--batch-size", type=positive, help="prompts at once; default: 32")
    machine.add_argument(
        "--take-turns",
        action="store_true",
        help="engine and reward model have the device one after the other: for a GPU that would not hold both",
    )

    parser.add_argument(
        "--write",
        choices=("ship", "always", "never"),
        default="ship",
        help="write the model if it is shown to be better (ship, the default), always, or never",
    )
    parser.add_argument(
        "--require-ship", action="store_true", help="exit with status 3 on any verdict but SHIP; otherwise with 0"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--log-json", action="store_true", help="tell what happens as JSON lines on standard error")
    add_reading(parser, pickles=False)


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.alphas and arguments.strategy == "paper":
        refuse("--alphas goes with --strategy race or grid")
    if arguments.intervals and arguments.strategy != "paper":
        refuse("--intervals goes with --strategy paper")
    if arguments.budget and arguments.strategy != "race":
        refuse("--budget goes with --strategy race")
    check_engine(arguments, refuse)
    check_tax(arguments, refuse)
    name_checkpoints(arguments, refuse)


def run(arguments: argparse.Namespace) -> int:
    """Search, write the report, show it. 3 where --require-ship was not met, else 0."""
    for package in ("transformers", "jinja2", "scipy", "psutil"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "search")
    from llm_expo.generation import read_prompts
    from llm_expo.report import as_json, write_report
    from llm_expo.search import Verdict, search
    from llm_expo.search.run import BATCH_SIZE
    from llm_expo.terminal.search import search_logged, search_watched, show_outcome
    from llm_expo.weights import Direction

    prompts = read_prompts(arguments.prompts)[: arguments.limit]
    strategy = _strategy(arguments)
    direction = Direction.open(arguments.theta0, arguments.theta1, **reading(arguments))
    with ExitStack() as held:
        engine = engine_of(arguments, direction, sampling_of(arguments), held)
        scorers = scorers_of(arguments, held)
        limit = limit_of(arguments, direction, engine)
        with search_logged() if arguments.log_json else search_watched() as watch:
            outcome = search(
                direction,
                prompts,
                engine,
                scorers,
                arguments.out,
                strategy=strategy,
                choice=arguments.choose,
                limit=limit,
                min_gain=arguments.min_gain,
                confirm_share=arguments.confirm_share,
                batch_size=arguments.batch_size or BATCH_SIZE,
                extend=arguments.extend,
                write_model=arguments.write,
                dtype=arguments.dtype,
                turns=arguments.take_turns,
                watch=watch,
            )
    page = write_report(outcome)
    if arguments.json:
        print_json(as_json(outcome))
    else:
        show_outcome(outcome, str(page))
    return 3 if arguments.require_ship and outcome.verdict is not Verdict.SHIP else 0


def _strategy(arguments: argparse.Namespace) -> "Strategy":
    from llm_expo.search import Budget, Grid, Paper, Race

    match arguments.strategy:
        case "paper":
            return Paper(arguments.intervals) if arguments.intervals else Paper()
        case "grid":
            return Grid(arguments.alphas) if arguments.alphas else Grid()
    budget = Budget.parse(arguments.budget) if arguments.budget else None
    return Race(budget, arguments.alphas) if arguments.alphas else Race(budget)
