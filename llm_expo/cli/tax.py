"""`search --tax TASKS --max-tax POINTS`: what a finalist loses on benchmarks, measured before it may be chosen.

Here evaluation and search meet; neither knows the other.
"""

import argparse
import importlib.util
import logging
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.cli.engines import whole_of
from llm_expo.cli.options import Refuse
from llm_expo.cli.yardsticks.lm_eval import manner_of
from llm_expo.errors import MissingExtraError

if TYPE_CHECKING:
    from llm_expo.evaluation.models import Model
    from llm_expo.generation import Engine
    from llm_expo.search import Limit
    from llm_expo.stats import Interval
    from llm_expo.weights import Direction

_THETA1 = "theta1"

logger = logging.getLogger(__name__)


def add_tax_options(parser: argparse.ArgumentParser) -> None:
    """The tasks, the limit, and how they are asked; `limit_of` reads them."""
    group = parser.add_argument_group(
        "alignment tax", "the choice is the best reward that loses at most so much on benchmarks (docs/evaluation.md)"
    )
    group.add_argument(
        "--tax", metavar="NAME,...", help="tasks of lm-evaluation-harness, NAME or NAME:SHOTS; leaderboard: the paper's"
    )
    group.add_argument(
        "--max-tax",
        type=float,
        metavar="POINTS",
        help="with 95 %% confidence theta(alpha) is to lose less against theta1, in the tasks' mean",
    )
    group.add_argument("--tasks-from", type=Path, metavar="DIR", help="tasks of your own beside them, as YAML")
    group.add_argument(
        "--chat-template",
        action="store_true",
        help="put them through the chat template; default: plain text, as leaderboards do",
    )


def check_tax(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if (arguments.tax is None) != (arguments.max_tax is None):
        refuse("--tax TASKS and --max-tax POINTS go together")
    if arguments.max_tax is not None and not arguments.max_tax > 0:
        refuse("--max-tax: a limit is above 0 points")
    if arguments.tax is None and (arguments.tasks_from is not None or arguments.chat_template):
        refuse("--tasks-from and --chat-template go with --tax")


def limit_of(arguments: argparse.Namespace, direction: "Direction", engine: "Engine") -> "Limit | None":
    """The limit that the options state, if any. What is measured is kept in OUT/tax, and not measured again.

    Raises MissingExtraError without lm-eval, EvaluationError for a task that is not there.
    """
    if arguments.tax is None:
        return None
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError("lm-eval", "lm-eval")
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars; read when tqdm is first imported
    from llm_expo.evaluation.lm_eval import harness
    from llm_expo.evaluation.lm_eval.tasks import read_tasks
    from llm_expo.search import Limit

    asked = read_tasks(arguments.tax)
    harness.quieten()
    harness.find([each.name for each in asked], arguments.tasks_from)  # before hours of other work

    out = arguments.out / "tax"
    manner = manner_of(arguments, out, None, arguments.batch_size or 32)

    def price(alpha: float) -> "Interval":
        from llm_expo.evaluation.lm_eval.paired import score_cells
        from llm_expo.evaluation.lm_eval.run import measure
        from llm_expo.evaluation.lm_eval.tax import lost
        from llm_expo.evaluation.models import Model
        from llm_expo.generation.moving import folder_at

        engine.rest()
        scratch = arguments.out / "scratch" / "tax"
        with redirect_stdout(sys.stderr), folder_at(alpha, direction, scratch, arguments.dtype) as folder:
            answered = measure(
                [Model(_THETA1, str(direction.aligned.path)), Model(f"alpha-{alpha:g}", str(folder))],
                lambda model: whole_of(arguments, _side(direction, model)),
                asked,
                out,
                manner,
                _Told(),
            )
        return lost(score_cells(answered))

    template = "chat template" if arguments.chat_template else "plain text"
    return Limit(f"points lost on {arguments.tax} ({template})", arguments.max_tax, price)


class _Told:
    """A line for each thing that begins: the search has a bar of its own."""

    def __init__(self) -> None:
        self._what = ""

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self._what:
            self._what = what
            logger.info("tax: %s, %d to go", what, of - done)


def _side(direction: "Direction", model: "Model") -> "Direction":
    """theta1 as the search has it, or the folder that theta(alpha) was written to."""
    from llm_expo.weights import Direction

    if model.name != _THETA1:
        return Direction.alone(Path(model.place))
    return Direction(direction.aligned, direction.aligned) if direction.aligned.is_whole else direction
