"""Options and kinds of arguments that several verbs share, and what they do with them."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from llm_expo.catalogue import Pair

# Ends the program with a line on how the command is used, as `argparse.ArgumentParser.error` does.
Refuse = Callable[[str], NoReturn]


def add_checkpoints(parser: argparse.ArgumentParser, more: str = "", nargs: str = "+") -> None:
    """THETA0 and THETA1; `name_checkpoints` says which is which."""
    # One argument, since argparse (before 3.13) takes an optional one for absent where options come first.
    parser.add_argument(
        "checkpoints",
        nargs=nargs,
        metavar="CHECKPOINT",
        help="THETA0 THETA1, before and after preference training: folders, or hub ids with or without @revision; "
        f"THETA1 alone where a record beside it names theta0 (what `llm-expo train` made, differences, adapters){more}",
    )


def add_reading(parser: argparse.ArgumentParser, *, pickles: bool = True, records: bool = True) -> None:
    """How checkpoints are opened, for `reading`.

    pickles: whether they can be read, which no engine does.
    records: whether theta0 and theta1 that look swapped are refused.
    """
    group = parser.add_argument_group("reading checkpoints")
    group.add_argument(
        "--base", metavar="BASE", help="the model under LoRA adapters; default: theta0, or what the adapter names"
    )
    if pickles:
        group.add_argument(
            "--allow-bin", action="store_true", help="read .bin pickles too, without executing anything in them"
        )
    if records:
        group.add_argument(
            "--as-given", action="store_true", help="take theta0 and theta1 as given, whatever their own records say"
        )


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of Sides.open and Direction.open that `add_reading` asks for."""
    return {
        "base": arguments.base,
        "allow_bin": getattr(arguments, "allow_bin", False),
        "as_given": getattr(arguments, "as_given", True),
    }


def name_checkpoints(arguments: argparse.Namespace, refuse: Refuse, *, most: int = 2) -> None:
    """Set theta0 (None where theta1 stands alone), theta1 and, of three, the aligned one."""
    given = arguments.checkpoints
    if len(given) > most:
        refuse(f"at most {most} checkpoints, and {len(given)} are given: {' '.join(given)}")
    alone = [None] if len(given) == 1 else []
    arguments.theta0, arguments.theta1, arguments.aligned = [*alone, *given, None, None, None][:3]


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """--catalogue, which `catalogue_of` reads."""
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="a catalogue of your own instead of the paper's")


def catalogue_of(arguments: argparse.Namespace) -> "list[Pair]":
    """The user's own catalogue of pairs, or the paper's."""
    from llm_expo.catalogue import PAPER, read_catalogue

    return read_catalogue(arguments.catalogue or PAPER)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers, as in 2,1,0.5."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 2,1,0.5") from None


def print_json(record: dict[str, Any]) -> None:
    """The result on standard output, for programs."""
    json.dump(record, sys.stdout, indent=2, ensure_ascii=False, default=str)
    print()
