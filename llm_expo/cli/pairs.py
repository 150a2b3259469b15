"""`llm-expo pairs`: known pairs, with what was published of them."""

import argparse
from dataclasses import asdict

from llm_expo.cli.options import add_catalogue, catalogue_of, print_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `pairs`'s."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show one: its command, and what it needs")
    add_catalogue(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Show all, or one."""
    from llm_expo import terminal
    from llm_expo.catalogue import COLUMNS, describe, find, table

    pairs = catalogue_of(arguments)
    if arguments.name is not None:
        pair = find(pairs, arguments.name)
        if arguments.json:
            print_json(asdict(pair))
        else:
            terminal.show_lines(describe(pair))
    elif arguments.json:
        print_json({"pairs": [asdict(pair) for pair in pairs]})
    else:
        terminal.show_table(COLUMNS, table(pairs))
        print("figures: theta1 → theta(alpha), as published; `llm-expo pairs NAME` tells the rest")
