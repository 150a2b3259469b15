"""All verbs, and what becomes of errors."""

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType

import llm_expo
from llm_expo.cli import apply, compare, demo, evaluate, pairs, search, train
from llm_expo.cli.options import numbers
from llm_expo.errors import ExpoError

VERBS: dict[ModuleType, str] = {
    apply: "write theta(alpha) as a checkpoint",
    compare: "how far two checkpoints lie apart, or three, and what they look like",
    search: "find alpha by inference, confirm it on fresh prompts, write the model",
    train: "preference training by a recipe, to make a pair of one's own",
    pairs: "known pairs: the paper's, with published alphas and results",
    evaluate: "figures from judgements, and the tax from benchmark results",
    demo: "the whole way on a small real model, in minutes, offline",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns the exit status: 0, 1 for an error that is told in one line, 130 when interrupted.

    141, silently, where whoever read the output has read enough (`| head`), as if SIGPIPE had ended it.
    `search --require-ship` returns 3 on any verdict but SHIP; argparse itself exits with 2 on wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± or ─ shows a question mark
    as_json = False
    try:
        try:
            arguments = parsed(argv)
            as_json = getattr(arguments, "log_json", False)
            logging.basicConfig(handlers=[_Noting(as_json)])
            logging.getLogger("llm_expo").setLevel(logging.INFO)
            run: Callable[[argparse.Namespace], int | None] = arguments.run
            return run(arguments) or 0
        finally:
            sys.stdout.flush()  # what fails here is told; as Python ends, it would be too late
    except ExpoError as error:
        return _failed(str(error), as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in the buffer
        return 141
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), as_json)
    except KeyboardInterrupt:
        _tell("interrupted; nothing is half-written; run it again, and it goes on", "interrupted", as_json)
        return 130


class _Noting(logging.Handler):
    """Lines on whatever is standard error by then: a live display takes its place, and they come to stand above it."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        _tell(record.getMessage(), record.levelname.lower(), self._as_json)


def _failed(message: str, as_json: bool) -> int:
    _tell(message if as_json else f"error: {message}", "error", as_json)
    return 1


def _tell(message: str, event: str, as_json: bool) -> None:
    """As a line, or as an object beside those of --log-json."""
    from llm_expo import terminal

    line = json.dumps({"event": event, "message": message}, ensure_ascii=False) if as_json else f"llm-expo: {message}"
    terminal.note(line)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, those refused that another one makes meaningless. Exits with 2 on wrong usage."""
    parser = make_parser()
    # argparse takes all checkpoints where the first one stands; those behind an option are left over.
    arguments, rest = parser.parse_known_args(list(map(_told_from_option, sys.argv[1:] if argv is None else argv)))
    if rest and ("checkpoints" not in arguments or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if "checkpoints" in arguments:
        arguments.checkpoints = [*arguments.checkpoints, *rest]
    if arguments.check is not None:
        arguments.check(arguments)
    return arguments


def _told_from_option(argument: str) -> str:
    """A negative number behind a space, which no number minds: argparse takes -1e-3 and -0.5,0.5 for options."""
    if argument.startswith("-"):
        with suppress(argparse.ArgumentTypeError):
            numbers(argument)
            return f" {argument}"
    return argument


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="llm-expo",
        description="Make an aligned language model better without training it: "
        "theta(alpha) = theta1 + alpha * (theta1 - theta0).",
        epilog="theta0 is the SFT checkpoint, theta1 the same model after preference training (DPO, RLHF, ...).",
    )
    parser.add_argument("--version", action="version", version=f"llm-expo {llm_expo.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb, help_ in VERBS.items():
        options = verbs.add_parser(verb.__name__.rpartition(".")[2], help=help_, description=f"{help_}.")
        verb.add_options(options)
        check = partial(verb.check, refuse=options.error) if hasattr(verb, "check") else None
        options.set_defaults(run=verb.run, check=check)
    return parser
