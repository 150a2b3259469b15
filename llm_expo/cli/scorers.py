"""What scores replies, from the options of a verb: scorers, a judge."""

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from llm_expo.cli.engines import REPLICAS
from llm_expo.cli.options import numbers, positive

if TYPE_CHECKING:
    from llm_expo.scoring import Comparer, Scorer
    from llm_expo.scoring.endpoint import Endpoint


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Who judges; `judge_of` reads them."""
    parser.add_argument(
        "--judge", metavar="MODEL@URL", help="an OpenAI-compatible endpoint (docs/scoring.md); without URL, OpenAI's"
    )
    add_judge_terms(parser)


def add_judge_terms(parser: argparse.ArgumentParser) -> None:
    """What a judge costs, and how long it may take."""
    parser.add_argument(
        "--judge-prices",
        type=_prices,
        metavar="IN,OUT",
        help="of a million tokens that a judge reads, and writes: its bill is then told",
    )
    parser.add_argument(
        "--judge-timeout",
        type=positive,
        metavar="SECONDS",
        help="to wait for one answer of a judge; a question that gets none is asked once more, then the run ends; "
        "default: 120, for MT-Bench 600",
    )


def judge_of(arguments: argparse.Namespace, timeout: float | None = None) -> "Endpoint | None":
    """The judge that `--judge` names, if any; its answers are kept in OUT/answers.sqlite.

    timeout: seconds to wait for one of them, unless the options say.
    """
    if arguments.judge is None:
        return None
    from llm_expo.scoring.spec import endpoint_from

    answers = arguments.out / "answers.sqlite"
    return endpoint_from(arguments.judge, answers, arguments.judge_prices, arguments.judge_timeout or timeout)


def tell_bill(judge: "Endpoint", asker: str) -> None:
    """What the judge's answers cost so far, on standard error."""
    from llm_expo import terminal

    bill = judge.bill(asker)
    price = "" if bill.price is None else f", {bill.price:,.2f} in all"
    uncounted = f" ({bill.uncounted} came without their tokens)" if bill.uncounted else ""
    terminal.note(
        f"{judge.model}: {bill.answers:,} answers, {bill.tokens_in:,} tokens read, {bill.tokens_out:,} written{price}"
        f"{uncounted}"
    )


def scorers_of(arguments: argparse.Namespace, held: ExitStack) -> "list[Scorer | Comparer]":
    """The scorers that `--scorer` names; with Ray, reward models in as many replicas as the engine."""
    from llm_expo.scoring import Scorer, scorer_from, scorers_from

    device = None if arguments.device == "auto" else arguments.device  # a reward model takes one
    usual: dict[str, Any] = {"device": device, "trust_remote_code": arguments.trust_remote_code}

    def make(spec: str) -> Scorer:
        if arguments.engine != "ray" or not spec.startswith("reward-model:"):
            return scorer_from(spec, **usual)
        from llm_expo.scoring.ray_scorer import ray_scorer_from

        replicas = arguments.replicas or REPLICAS
        return held.enter_context(ray_scorer_from(spec, replicas=replicas, address=arguments.ray_address, **usual))

    return scorers_from(
        arguments.scorer,
        make,
        answers=arguments.out / "answers.sqlite",
        prices=arguments.judge_prices,
        timeout=arguments.judge_timeout,
    )


def _prices(text: str) -> tuple[float, float]:
    prices = numbers(text)
    if len(prices) != 2 or min(prices) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not two prices, as in 0.25,2")
    return prices[0], prices[1]
