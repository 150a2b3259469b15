"""`llm-expo demo`: the whole way on a small real model."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `demo`'s."""
    parser.add_argument("--out", type=Path, default=Path("demo-run"), metavar="DIR", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Make a pair, and search as a user would."""
    from llm_expo import terminal
    from llm_expo.cli.main import main
    from llm_expo.demo import OBJECTIVE, SEARCH_OPTIONS, make_pair

    terminal.note(OBJECTIVE)
    theta0, theta1 = make_pair(arguments.out)
    command = ["search", str(theta0), str(theta1), *SEARCH_OPTIONS, "--out", str(arguments.out / "study")]
    terminal.note(f"$ llm-expo {' '.join(command)}")
    return main(command)
