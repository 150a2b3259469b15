"""The command line: parse, call the library, print. The only place that composes the rooms; nobody imports it.

A module for each verb, with `add_options`, `check` (what argparse cannot, if anything) and `run`. They load what they
need as they run.
"""

from llm_expo.cli.main import main as main
