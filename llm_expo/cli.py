"""The command line: parse, call the library, print. The only place that composes the rooms; nobody imports it."""

import argparse
import importlib.util
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llm_expo
from llm_expo.errors import ExpoError, MissingExtraError

if TYPE_CHECKING:
    from llm_expo.catalogue import Pair
    from llm_expo.generation import Engine, Sampling
    from llm_expo.scoring import Comparer, Scorer
    from llm_expo.search import Strategy
    from llm_expo.weights import Direction


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns the exit status: 0, 1 for an error that is told in one line, 130 when interrupted.

    `search --require-ship` returns 3 on any verdict but SHIP; argparse itself exits with 2 on wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± or ─ shows a question mark
    arguments = _parsed(argv)
    logging.basicConfig(format="llm-expo: %(message)s", stream=sys.stderr)
    logging.getLogger("llm_expo").setLevel(logging.INFO)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        return run(arguments) or 0
    except ExpoError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("llm-expo: interrupted; nothing is half-written; run it again, and it goes on", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    from llm_expo import terminal

    terminal.note(f"llm-expo: error: {message}")
    return 1


def _apply(arguments: argparse.Namespace) -> None:
    # Matrix products of our own threads' work: threads of BLAS's own would only be in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from llm_expo import terminal
    from llm_expo.weights import Rounding, Sides, plan, plan_adapter, write

    if arguments.pair is not None:
        _take_pair(arguments)
    sides = Sides.open(
        arguments.theta0,
        arguments.theta1,
        base=arguments.base,
        allow_bin=arguments.allow_bin,
        as_given=arguments.as_given,
    )
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
            _print_json(terminal.plan_record(extrapolation))
        else:
            terminal.show_plan(extrapolation)
        return
    # Ray tells of lost nodes on standard output, where nothing but the result belongs.
    with redirect_stdout(sys.stderr), terminal.bytes_written(extrapolation.nbytes) as progress:
        written = write(
            extrapolation,
            arguments.out,
            progress,
            workers=arguments.workers,
            let_through=arguments.allow_not_finite,
            on=arguments.on,
        )
    if arguments.json:
        _print_json(asdict(written))
    else:
        terminal.show_written(written)
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

    pair = find(_catalogue(arguments), arguments.pair)
    arguments.theta0, arguments.theta1 = pair.initial, pair.aligned
    if arguments.alpha is None:
        arguments.alpha = pair.alpha
    if arguments.alpha is None:
        raise ExpoError(f"{pair.name}: no alpha was published for it; give --alpha, or search: {apply_command(pair)}")


def _catalogue(arguments: argparse.Namespace) -> "list[Pair]":
    from llm_expo.catalogue import PAPER, read_catalogue

    return read_catalogue(arguments.catalogue or PAPER)


def _pairs(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.catalogue import COLUMNS, describe, find, table

    pairs = _catalogue(arguments)
    if arguments.name is not None:
        pair = find(pairs, arguments.name)
        if arguments.json:
            _print_json(asdict(pair))
        else:
            terminal.show_lines(describe(pair))
    elif arguments.json:
        _print_json({"pairs": [asdict(pair) for pair in pairs]})
    else:
        terminal.show_table(COLUMNS, table(pairs))
        print("figures: theta1 → theta(alpha), as published; `llm-expo pairs NAME` tells the rest")


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.results:
        _evaluate_results(arguments)
    else:
        _evaluate_annotations(arguments)


def _evaluate_annotations(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.alpaca_eval import words
    from llm_expo.evaluation.alpaca_eval.annotations import read_annotations
    from llm_expo.evaluation.alpaca_eval.companion import read_companion
    from llm_expo.evaluation.alpaca_eval.comparison import compare_models

    companion = None if arguments.gamed is None else read_companion(arguments.gamed)
    compared = compare_models([read_annotations(path) for path in arguments.annotations], companion)
    if arguments.json:
        _print_json(asdict(compared))
        return
    terminal.show_table(words.COLUMNS, words.table(compared))
    for line in words.lines(compared):
        terminal.show_line(line)


def _evaluate_results(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.evaluation.lm_eval import words
    from llm_expo.evaluation.lm_eval.results import read_results
    from llm_expo.evaluation.lm_eval.tax import pair_up, tax

    cells = tax(pair_up([each for path in arguments.results for each in read_results(path)]))
    if arguments.json:
        _print_json({"cells": [{**asdict(cell), "difference": cell.difference} for cell in cells]})
        return
    head, *rows = words.table(cells)
    terminal.show_table(head, rows)
    for line in [words.HOW_TO_READ, *words.standing_out(cells)]:
        terminal.show_line(line)


def _compare(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.weights import Direction, chart, compare, compare_three, judge, judge_three
    from llm_expo.weights.comparison import as_json

    if arguments.plot is not None:
        chart.check_target(arguments.plot)
    pair = Direction.open(arguments.theta0, arguments.theta1)
    if arguments.aligned is None:
        comparison = compare(pair)
        judgement, rows, record = judge(comparison), {"theta0 → theta1": comparison}, as_json(comparison)
    else:
        aligned = Direction.open(arguments.theta1, arguments.aligned).aligned
        lineage = compare_three(pair.initial, pair.aligned, aligned)
        judgement, rows, record = judge_three(lineage), lineage.rows(), as_json(lineage)
    if arguments.plot is not None:
        chart.write(rows, arguments.plot)
    if arguments.json:
        _print_json({**record, "judgement": {**asdict(judgement), "sentence": str(judgement)}})
    elif arguments.aligned is None:
        terminal.show_comparison(comparison, judgement)
    else:
        terminal.show_lineage(lineage, judgement)


def _search(arguments: argparse.Namespace) -> int:
    for package in ("transformers", "jinja2", "scipy", "psutil"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "search")
    from llm_expo import terminal
    from llm_expo.generation import Sampling, read_prompts
    from llm_expo.report import as_json, write_report
    from llm_expo.search import Verdict, search
    from llm_expo.search.run import BATCH_SIZE
    from llm_expo.weights import Direction

    prompts = read_prompts(arguments.prompts)[: arguments.limit]
    sampling = Sampling(**{field.name: getattr(arguments, field.name) for field in fields(Sampling)})
    strategy = _strategy(arguments)
    device = _device(arguments.device)
    direction = Direction.open(arguments.theta0, arguments.theta1)
    with ExitStack() as held:
        engine = _engine(arguments, direction, sampling, device, held)
        scorers = _scorers(arguments, device, held)
        with terminal.search_logged() if arguments.log_json else terminal.search_watched() as watch:
            outcome = search(
                direction,
                prompts,
                engine,
                scorers,
                arguments.out,
                strategy=strategy,
                choice=arguments.choose,
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
        _print_json(as_json(outcome))
    else:
        terminal.show_outcome(outcome, str(page))
    return 3 if arguments.require_ship and outcome.verdict is not Verdict.SHIP else 0


def _engine(
    arguments: argparse.Namespace, direction: "Direction", sampling: "Sampling", device: str | None, held: ExitStack
) -> "Engine":
    """The engine that `--on` names; what has to be given back afterwards is left to `held`."""
    shared: dict[str, Any] = {
        "device": device,
        "dtype": arguments.dtype,
        "low_memory": arguments.low_memory,
        "scratch": arguments.out / "scratch",
        "trust_remote_code": arguments.trust_remote_code,
    }
    if arguments.on == "ray":
        from llm_expo.generation.ray_engine import ray_engine_from

        return held.enter_context(
            ray_engine_from(direction, sampling, replicas=arguments.replicas, address=arguments.ray_address, **shared)
        )
    from llm_expo.generation.engines import engine_from

    return engine_from(
        arguments.on,
        direction,
        sampling,
        vllm_python=arguments.vllm_python,
        tensor_parallel=arguments.tensor_parallel,
        device_memory=arguments.device_memory,
        **shared,
    )


def _scorers(arguments: argparse.Namespace, device: str | None, held: ExitStack) -> "list[Scorer | Comparer]":
    """The scorers; with `--on ray`, reward models in as many replicas as the engine."""
    from llm_expo.scoring import scorers_from

    usual: dict[str, Any] = {"device": device, "trust_remote_code": arguments.trust_remote_code}
    answers = arguments.out / "answers.sqlite"
    scorers = scorers_from(arguments.scorer, answers=answers, prices=arguments.judge_prices, **usual)
    if arguments.on != "ray":
        return scorers
    from llm_expo.scoring.ray_scorer import ray_scorer_from

    return [
        held.enter_context(ray_scorer_from(spec, replicas=arguments.replicas, address=arguments.ray_address, **usual))
        if spec.startswith("reward-model:")
        else scorer
        for spec, scorer in zip(arguments.scorer, scorers, strict=True)
    ]


def _strategy(arguments: argparse.Namespace) -> "Strategy":
    from llm_expo.search import Budget, Grid, Paper, Race

    match arguments.strategy:
        case "paper":
            return Paper(arguments.intervals) if arguments.intervals else Paper()
        case "grid":
            return Grid(arguments.alphas) if arguments.alphas else Grid()
    budget = Budget.parse(arguments.budget) if arguments.budget else None
    return Race(budget, arguments.alphas) if arguments.alphas else Race(budget)


def _train(arguments: argparse.Namespace) -> None:
    for package in ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "pydantic", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train")
    if not sys.stderr.isatty():  # the bars of tokenising and of theta0's log-probabilities are for those who watch
        import datasets

        datasets.disable_progress_bars()
        os.environ.setdefault("TQDM_DISABLE", "1")
    from llm_expo import terminal
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
            _print_json(asdict(plan))
        else:
            terminal.show_lines(plan_lines(plan))
        return
    with terminal.training_watched() as watch:
        trained = train(recipe, arguments.out, watch)
    if not first:
        return
    if arguments.json:
        _print_json(asdict(trained))
    else:
        print(f"{trained.models[-1]}: {trained.steps} steps; go on with: {next_step(recipe, trained.models[-1])}")


def _demo(arguments: argparse.Namespace) -> None:
    from llm_expo import terminal
    from llm_expo.demo import OBJECTIVE, SEARCH_OPTIONS, make_pair

    terminal.note(OBJECTIVE)
    theta0, theta1 = make_pair(arguments.out)
    command = ["search", str(theta0), str(theta1), *SEARCH_OPTIONS, "--out", str(arguments.out / "study")]
    terminal.note(f"$ llm-expo {' '.join(command)}")
    _search(_parsed(command))


def _device(name: str | None) -> str:
    """The device that was asked for, if this machine has it; else a GPU if there is one."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ExpoError(f"--device {name}: {str(error).splitlines()[0].split('. ')[0]}") from None
    return name


def _print_json(record: dict[str, Any]) -> None:
    json.dump(record, sys.stdout, indent=2, ensure_ascii=False, default=str)
    print()


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with those refused that another one makes meaningless."""
    parser = _parser()
    # argparse takes all checkpoints where the first one stands; those behind an option are left over.
    arguments, rest = parser.parse_known_args(argv)
    if "checkpoints" in arguments:
        _name_checkpoints(arguments, rest, parser)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.run is _apply:
        if arguments.alpha is None and arguments.pair is None:
            parser.error("apply: --alpha is required, unless with --pair")
        if arguments.catalogue is not None and arguments.pair is None:
            parser.error("apply: --catalogue goes with --pair")
    if arguments.run is _evaluate and arguments.gamed is not None and not arguments.annotations:
        parser.error("evaluate: --gamed goes with --annotations")
    if arguments.run is _apply and arguments.out is None and not arguments.dry_run:
        parser.error("apply: --out is required, unless with --dry-run")
    if arguments.run is _train and arguments.out is None and not arguments.dry_run:
        parser.error("train: --out is required, unless with --dry-run")
    if arguments.run is _compare and arguments.plot is not None and arguments.plot.suffix.lower() != ".svg":
        parser.error("compare: --plot draws SVG; give a name that ends in .svg")
    if arguments.run is _search:
        if arguments.alphas and arguments.strategy == "paper":
            parser.error("search: --alphas goes with --strategy race or grid")
        if arguments.intervals and arguments.strategy != "paper":
            parser.error("search: --intervals goes with --strategy paper")
        if arguments.budget and arguments.strategy != "race":
            parser.error("search: --budget goes with --strategy race")
    return arguments


def _name_checkpoints(arguments: argparse.Namespace, rest: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Set theta0 (None where theta1 stands alone), theta1 and, for `compare`, the third."""
    if unknown := [each for each in rest if each.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    given = [*arguments.checkpoints, *rest]
    most = 3 if arguments.run is _compare else 2
    if len(given) > most:
        parser.error(f"at most {most} checkpoints, and {len(given)} are given: {' '.join(given)}")
    if arguments.run is _apply and (arguments.pair is None) == (not given):
        parser.error("apply: give THETA0 THETA1, or --pair NAME, and not both")
    if not given:
        given = [None]
    alone = [None] if len(given) == 1 else []
    arguments.theta0, arguments.theta1, arguments.aligned = [*alone, *given, None][:3]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llm-expo",
        description="Make an aligned language model better without training it: "
        "theta(alpha) = theta1 + alpha * (theta1 - theta0).",
        epilog="theta0 is the SFT checkpoint, theta1 the same model after preference training (DPO, RLHF, ...).",
    )
    parser.add_argument("--version", action="version", version=f"llm-expo {llm_expo.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    apply = verbs.add_parser("apply", help="write theta(alpha) as a checkpoint")
    _add_pair(apply, nargs="*")
    apply.add_argument("--alpha", type=float, help="0 is theta1, -1 is theta0, above 0 extrapolates")
    apply.add_argument(
        "--pair", metavar="NAME", help="a known pair and its published alpha; `llm-expo pairs` lists them"
    )
    _add_catalogue(apply)
    apply.add_argument("--out", type=Path, metavar="DIR", help="the folder to write; must not exist")
    apply.add_argument(
        "--merge", action="store_true", help="where theta1 is a LoRA adapter: write a whole model, not an adapter"
    )
    apply.add_argument(
        "--base", metavar="BASE", help="the model under both adapters; default: theta0, or what the adapter names"
    )
    apply.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    apply.add_argument("--json", action="store_true", help="print what was written, or the plan, as JSON")
    _add_apply_options(apply)
    apply.set_defaults(run=_apply)

    compare = verbs.add_parser("compare", help="how far two checkpoints lie apart, or three, and what they look like")
    _add_pair(compare, "; of three, they are the pre-trained, the SFT and the aligned one, as in the paper's Table 1")
    compare.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the change by layer and kind of module")
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")
    compare.set_defaults(run=_compare)

    search = verbs.add_parser("search", help="find alpha by inference, confirm it on fresh prompts, write the model")
    _add_pair(search)
    _add_search_options(search)
    search.set_defaults(run=_search)

    train = verbs.add_parser("train", help="preference training by a recipe, to make a pair of one's own")
    train.add_argument(
        "recipe", type=Path, metavar="RECIPE.toml", help="one training run; docs/training.md has its keys"
    )
    train.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; an unfinished one goes on")
    train.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    train.add_argument(
        "--save",
        choices=("float32", "difference", "bfloat16"),
        help="how models are kept, whatever the recipe says: float32; theta0's place and the difference in bfloat16; "
        "or plain bfloat16, which loses much of a small step",
    )
    train.add_argument("--json", action="store_true", help="print the result, or the plan, as JSON")
    train.set_defaults(run=_train)

    pairs = verbs.add_parser("pairs", help="known pairs: the paper's, with published alphas and results")
    pairs.add_argument("name", nargs="?", metavar="NAME", help="show one: its command, and what it needs")
    _add_catalogue(pairs)
    pairs.add_argument("--json", action="store_true", help="print it as JSON")
    pairs.set_defaults(run=_pairs)

    evaluate = verbs.add_parser("evaluate", help="figures from judgements, and the tax from benchmark results")
    given = evaluate.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="AlpacaEval's judgements, a file for each model, the reference first",
    )
    given.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="benchmark results: what lm-evaluation-harness writes, the reference first, or several models in one file",
    )
    evaluate.add_argument(
        "--gamed",
        type=Path,
        metavar="FILE",
        help="AlpacaEval's df_gamed.csv, for the full length-controlled win rate; without it, the minimal form",
    )
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    evaluate.set_defaults(run=_evaluate)

    demo = verbs.add_parser("demo", help="the whole way on a small real model, in minutes, offline")
    demo.add_argument("--out", type=Path, default=Path("demo-run"), metavar="DIR", help="default: %(default)s")
    demo.set_defaults(run=_demo)
    return parser


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="a catalogue of your own instead of the paper's")


def _add_pair(parser: argparse.ArgumentParser, more: str = "", nargs: str = "+") -> None:
    # One argument, since argparse (before 3.13) takes an optional one for absent where options come first.
    parser.add_argument(
        "checkpoints",
        nargs=nargs,
        metavar="CHECKPOINT",
        help="THETA0 THETA1, before and after preference training: folders, or hub ids with or without @revision; "
        f"THETA1 alone where a record beside it names theta0 (what `llm-expo train` made, differences, adapters){more}",
    )


def _add_apply_options(parser: argparse.ArgumentParser) -> None:
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

    which.add_argument(
        "--as-given", action="store_true", help="take theta0 and theta1 as given, whatever their own records say"
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument("--workers", type=_positive, metavar="N", help="threads; default: one a core, up to 4")
    machine.add_argument(
        "--on",
        choices=("here", "ray"),
        default="here",
        help="ray: a task for each file, with --workers threads, on the Ray cluster of RAY_ADDRESS or of this machine, "
        "whose nodes all see the files (docs/scale.md); default: %(default)s",
    )
    machine.add_argument(
        "--allow-bin", action="store_true", help="read .bin pickles too, without executing anything in them"
    )


def _alpha_for(text: str) -> tuple[str, float]:
    glob, sign, value = text.rpartition("=")
    try:
        if sign and glob:
            return glob, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not GLOB=ALPHA, such as '*.mlp.*=0.2'")


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scorer",
        required=True,
        action="append",
        help="reward-model:PATH_OR_ID (sequence classification, raw logit), function:package.module:name "
        "(conversations to floats), judge:MODEL@URL or file:SCORES.jsonl (docs/scoring.md); give it twice: the "
        "first one chooses, and cannot see it if it is being gamed, the second one checks",
    )
    parser.add_argument(
        "--judge-prices",
        type=_prices,
        metavar="IN,OUT",
        help="of a million tokens that a judge reads, and writes: its bill is then in the report",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STUDY", help="study folder; an unfinished one goes on"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSONL with `prompt` or `messages` and optionally `id`, or hub:DATASET:SPLIT[:FIELD]; "
        "default: 320 prompts that come along",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="use the first N prompts only")
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
        type=_numbers,
        metavar="A,B,...",
        help="which a race chooses from (default: from -0.5 to 30) or a grid tries (default: 0.1,0.2,0.3,0.4,0.5); "
        "write --alphas=-0.5,0.5 if the first is negative",
    )
    parser.add_argument(
        "--intervals",
        type=_numbers,
        metavar="WIDE,...",
        help="of --strategy paper, from wide to narrow; the paper used 5,1 (for a model after 10 %% of its training), "
        "2,1,0.5 (20 %%; the default) and 0.1 (40 and 100 %%)",
    )

    sampling = parser.add_argument_group("sampling (the defaults are the paper's)")
    sampling.add_argument("--temperature", type=float, default=0.7)
    sampling.add_argument("--top-k", type=int, default=50)
    sampling.add_argument("--top-p", type=float, default=0.9)
    sampling.add_argument("--presence-penalty", type=float, default=0.1)
    sampling.add_argument("--frequency-penalty", type=float, default=0.1)
    sampling.add_argument("--seed", type=int, default=42)
    sampling.add_argument("--max-tokens", type=int, default=2048, help="of a reply; default: %(default)s")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--batch-size", type=_positive, help="prompts at once; default: 32")
    machine.add_argument("--device", help="such as cpu or cuda; default: a GPU if there is one")
    machine.add_argument(
        "--dtype",
        choices=("keep", "float32", "bfloat16", "float16"),
        default="keep",
        help="what theta(alpha) is rounded to and computed in, and written as; default: theta1's",
    )
    machine.add_argument(
        "--on",
        choices=("transformers", "vllm", "ray"),
        default="transformers",
        help="what makes the replies: transformers here, vLLM in a process of its own, or transformers in several "
        "replicas on a Ray cluster; default: %(default)s",
    )
    machine.add_argument("--replicas", type=_positive, default=2, help="of --on ray; default: %(default)s")
    machine.add_argument(
        "--ray-address", metavar="HOST:PORT", help="of --on ray: a cluster that runs; default: this machine alone"
    )
    machine.add_argument(
        "--vllm-python", type=Path, metavar="PATH", help="of --on vllm: the Python under which vLLM is installed"
    )
    machine.add_argument(
        "--tensor-parallel", type=_positive, metavar="N", help="of --on vllm: GPUs that share the model"
    )
    machine.add_argument("--device-memory", type=float, metavar="SHARE", help="of --on vllm: of each GPU, 0 to 1")
    machine.add_argument(
        "--low-memory", action="store_true", help="write each theta(alpha) to disk instead of holding both checkpoints"
    )
    machine.add_argument(
        "--take-turns",
        action="store_true",
        help="engine and reward model have the device one after the other: for a GPU that would not hold both",
    )
    machine.add_argument(
        "--trust-remote-code", action="store_true", help="let Python code in the checkpoints and the reward model run"
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


def _prices(text: str) -> tuple[float, float]:
    prices = _numbers(text)
    if len(prices) != 2 or min(prices) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not two prices, as in 0.25,2")
    return prices[0], prices[1]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 2,1,0.5") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
