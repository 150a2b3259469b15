"""`llm-expo train`: preference training by a recipe."""

import argparse
import importlib.util
import os
import sys
from dataclasses import asdict
from pathlib import Path

from llm_expo.cli.options import Refuse, print_json
from llm_expo.errors import MissingExtraError


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `train`'s."""
    parser.add_argument(
        "recipe", type=Path, metavar="RECIPE.toml", help="one training run; docs/training.md has its keys"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; an unfinished one goes on")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--save",
        choices=("float32", "difference", "bfloat16"),
        help="how models are kept, whatever the recipe says: float32; theta0's place and the difference in bfloat16; "
        "or plain bfloat16, which loses much of a small step",
    )
    parser.add_argument("--json", action="store_true", help="print the result, or the plan, as JSON")


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.out is None and not arguments.dry_run:
        refuse("--out is required, unless with --dry-run")


def run(arguments: argparse.Namespace) -> None:
    """Train, or show the plan."""
    for package in ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "pydantic", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train")
    if not sys.stderr.isatty():  # the bars of tokenising and of theta0's log-probabilities are for those who watch
        import datasets

        datasets.disable_progress_bars()
        os.environ.setdefault("TQDM_DISABLE", "1")
    from llm_expo.terminal import show_lines
    from llm_expo.terminal.training import training_watched
    from llm_expo.training.plan import make_plan, plan_lines
    from llm_expo.training.recipe import read_recipe
    from llm_expo.training.run import next_step, train

    recipe = read_recipe(arguments.recipe, arguments.save)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that accelerate or torchrun started; it speaks
    if arguments.dry_run:
        plan = make_plan(recipe, int(os.environ.get("WORLD_SIZE", "1")))
        if not first:
            return
        if arguments.json:
            print_json(asdict(plan))
        else:
            show_lines(plan_lines(plan))
        return
    with training_watched() as watch:
        trained = train(recipe, arguments.out, watch)
    if not first:
        return
    if arguments.json:
        print_json(asdict(trained))
    else:
        print(f"{trained.models[-1]}: {trained.steps} steps; go on with: {next_step(recipe, trained.models[-1])}")
