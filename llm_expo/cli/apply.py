"""`llm-expo apply`: theta(alpha) as a checkpoint."""

import argparse
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from llm_expo.cli.options import (
    Refuse,
    add_catalogue,
    add_checkpoints,
    add_reading,
    catalogue_of,
    name_checkpoints,
    positive,
    print_json,
    reading,
)
from llm_expo.errors import ExpoError


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of `apply`'s."""
    add_checkpoints(parser, nargs="*")
    parser.add_argument("--alpha", type=float, help="0 is theta1, -1 is theta0, above 0 extrapolates")
    parser.add_argument(
        "--pair", metavar="NAME", help="a known pair and its published alpha; `llm-expo pairs` lists them"
    )
    add_catalogue(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write; must not exist")
    parser.add_argument(
        "--merge", action="store_true", help="where theta1 is a LoRA adapter: write a whole model, not an adapter"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="print what was written, or the plan, as JSON")

    add_reading(parser)

    numbers = parser.add_argument_group("numbers")
    numbers.add_argument(
        "--dtype",
        choices=("keep", "float32", "bfloat16", "float16"),
        default="keep",
        help="of the weights written; default: theta1's, tensor by tensor",
    )
    numbers.add_argument(
        "--rounding",
        choices=("nearest", "stochastic"),
        default="nearest",
        help="to 16 bits; stochastic is right on average where steps are smaller than a bfloat16 can tell; "
        "default: %(default)s",
    )
    numbers.add_argument("--seed", type=int, default=0, help="of --rounding stochastic; default: %(default)s")
    numbers.add_argument(
        "--allow-not-finite", action="store_true", help="keep theta1's value where an input holds NaN or infinity"
    )

    which = parser.add_argument_group("which tensors (globs of names; the rest stays theta1's)")
    which.add_argument("--include", action="append", default=[], metavar="GLOB", help="move only these; repeatable")
    which.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="do not move these; repeatable")
    which.add_argument(
        "--alpha-for",
        action="append",
        default=[],
        type=_alpha_for,
        metavar="GLOB=ALPHA",
        help="another alpha for these; repeatable, the last match wins",
    )
    which.add_argument(
        "--new-rows",
        choices=("refuse", "copy"),
        default="refuse",
        help="where theta1's vocabulary grew: refuse (the default), or keep theta1's new rows and move the others",
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument("--workers", type=positive, metavar="N", help="threads; default: one a core, up to 4")
    machine.add_argument(
        "--on",
        choices=("here", "ray"),
        default="here",
        help="ray: a task for each file, with --workers threads, on the Ray cluster of RAY_ADDRESS or of this machine, "
        "whose nodes all see the files (docs/scale.md); default: %(default)s",
    )


def check(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what does not go together."""
    if arguments.alpha is None and arguments.pair is None:
        refuse("--alpha is required, unless with --pair")
    if arguments.catalogue is not None and arguments.pair is None:
        refuse("--catalogue goes with --pair")
    if arguments.out is None and not arguments.dry_run:
        refuse("--out is required, unless with --dry-run")
    if (arguments.pair is None) == (not arguments.checkpoints):
        refuse("give THETA0 THETA1, or --pair NAME, and not both")
    name_checkpoints(arguments, refuse)


def run(arguments: argparse.Namespace) -> None:
    """Plan, and write or show the plan."""
    # Matrix products of our own threads' work: threads of BLAS's own would only be in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from llm_expo.terminal import bytes_written
    from llm_expo.terminal.weights import show_plan, show_written
    from llm_expo.weights import Rounding, Sides, plan, plan_adapter, write
    from llm_expo.weights.extrapolation import as_json

    if arguments.pair is not None:
        _take_pair(arguments)
    sides = Sides.open(arguments.theta0, arguments.theta1, **reading(arguments))
    if sides.adapter_on_top and not arguments.merge:
        given = [name for name, default in _WHOLE_MODELS_ONLY.items() if getattr(arguments, name) != default]
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            raise ExpoError(f"{flag} is for whole models, and theta1 is an adapter: add --merge to write a whole model")
        extrapolation = plan_adapter(sides.initial, sides.adapter_on_top, arguments.alpha, sides.base)
    else:
        extrapolation = plan(
            sides.merged(),
            arguments.alpha,
            dtype=arguments.dtype,
            rounding=Rounding(arguments.rounding, arguments.seed),
            include=arguments.include,
            exclude=arguments.exclude,
            alpha_for=arguments.alpha_for,
            new_rows=arguments.new_rows,
        )
    if arguments.dry_run:
        if arguments.json:
            print_json(as_json(extrapolation))
        else:
            show_plan(extrapolation)
        return
    # Ray tells of lost nodes on standard output, where nothing but the result belongs.
    with redirect_stdout(sys.stderr), bytes_written(extrapolation.nbytes) as progress:
        written = write(
            extrapolation,
            arguments.out,
            progress,
            workers=arguments.workers,
            let_through=arguments.allow_not_finite,
            on=arguments.on,
        )
    if arguments.json:
        print_json(asdict(written))
    else:
        show_written(written)
        if "output" in extrapolation.selection:
            print(f"an adapter: {extrapolation.selection['output']}")


# The options of `apply` that choose what becomes of single tensors, and what they are where they were not given.
_WHOLE_MODELS_ONLY: dict[str, object] = {
    **{"dtype": "keep", "rounding": "nearest", "new_rows": "refuse"},
    **{"include": [], "exclude": [], "alpha_for": []},
}


def _take_pair(arguments: argparse.Namespace) -> None:
    """Set theta0, theta1 and, unless it was given, alpha to those of the pair that was named."""
    from llm_expo.catalogue import apply_command, find

    pair = find(catalogue_of(arguments), arguments.pair)
    arguments.theta0, arguments.theta1 = pair.initial, pair.aligned
    if arguments.alpha is None:
        arguments.alpha = pair.alpha
    if arguments.alpha is None:
        raise ExpoError(f"{pair.name}: no alpha was published for it; give --alpha, or search: {apply_command(pair)}")


def _alpha_for(text: str) -> tuple[str, float]:
    glob, sign, value = text.rpartition("=")
    try:
        if sign and glob:
            return glob, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not GLOB=ALPHA, such as '*.mlp.*=0.2'")
