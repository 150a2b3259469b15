"""The search itself: walk the rounds, choose, confirm on prompts that the walk never saw, decide, write the model."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Literal

from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import OutputError, StudyError
from llm_expo.generation import Engine, Json, Prompt
from llm_expo.scoring import Comparer, Recording, Resting, Scorer
from llm_expo.search.choice import Rule, choose
from llm_expo.search.confirm import confirm
from llm_expo.search.events import Chosen, Event, Split
from llm_expo.search.guard import Calibration, Objection, Observed, fluent
from llm_expo.search.limit import Limit, Priced, choose_within
from llm_expo.search.outcome import Limited, Outcome, Row, examples, row
from llm_expo.search.race import Race
from llm_expo.search.rounds import THETA0, THETA1, Strategy
from llm_expo.search.study import Spending, Study
from llm_expo.search.verdict import Verdict, decide
from llm_expo.search.walk import walk
from llm_expo.search.work import Work
from llm_expo.stats import paired_difference
from llm_expo.weights import Direction, OutputDtype, adapter_on_theta0, plan, plan_adapter, write

logger = logging.getLogger(__name__)

BATCH_SIZE = 32

MIN_PREFERENCE = 0.05
"""The least gain that matters to a scorer that compares, as a preference: theta1's own rewards have no spread."""


def search(
    direction: Direction,
    prompts: Sequence[Prompt],
    engine: Engine,
    scorers: Scorer | Comparer | Sequence[Scorer | Comparer],
    out: str | os.PathLike[str],
    *,
    strategy: Strategy | None = None,
    choice: Rule = "fluent",
    limit: Limit | None = None,
    min_gain: float | None = None,
    confirm_share: float = 1 / 3,
    batch_size: int = BATCH_SIZE,
    extend: bool = False,
    write_model: Literal["ship", "always", "never"] = "ship",
    dtype: OutputDtype = "keep",
    turns: bool = False,
    watch: Callable[[Event], None] = lambda _: None,
) -> Outcome:
    """Find alpha, confirm it, and write the model to `out`/model if it is better than theta1.

    Every reply and reward is kept in the study folder `out` as soon as it exists; called again with the same arguments
    after it was killed, the search goes on and ends the same.

    Args:
        direction: the pair, (theta0, theta1).
        prompts: development prompts; the share `confirm_share` of them is set aside for the confirmation.
        engine: makes the replies.
        scorers: the first one chooses; the others check its choice, on the confirm prompts.
        strategy: which alphas answer how many prompts next; `Race` if None.
        choice: the rule by which the choice is made among the alphas that were tried.
        limit: what the choice must not exceed, beside the rule.
        min_gain: the least gain that matters, in the first scorer's unit; if None, a tenth of the standard deviation of
            theta1's rewards, or `MIN_PREFERENCE`.
        batch_size: prompts that are generated together.
        extend: add those of `prompts` that the study does not hold yet.
        write_model: "ship" writes on the verdict SHIP only.
        dtype: of the model that is written; what the engine was given, so that it is the model that was judged.
        turns: engine and scorers have the device one after the other, for one that would not hold both.
        watch: told of every round, every batch and every alpha.

    Raises:
        ExpoError: its kinds in `llm_expo.errors`, each one line for the user; what was done is kept.
    """
    if not 0 < confirm_share < 1:
        raise StudyError(f"the share of prompts to confirm on is {confirm_share:g}; it has to lie between 0 and 1")
    if batch_size < 1:
        raise StudyError(f"the batch size is {batch_size}; it has to be at least 1")
    if min_gain is not None and not 0 <= min_gain < math.inf:
        raise StudyError(f"the least gain that matters is {min_gain:g}; it has to be 0 or more")
    direction.refuse_equal()
    scorers = [*scorers] if isinstance(scorers, Sequence) else [scorers]
    scorer, strategy, out = scorers[0], strategy or Race(), Path(out)
    if min_gain is None and isinstance(scorer, Comparer):
        min_gain = MIN_PREFERENCE
    if turns:  # they were loaded to see that they can be
        for each in scorers:
            if isinstance(each, Resting):
                each.rest()
    settings: dict[str, Json] = {
        **engine.settings,
        "scorer": scorer.name,
        "confirm_share": confirm_share,
        "batch_size": batch_size,
    }
    way: dict[str, Json] = {"strategy": repr(strategy)}
    with Study.open(out) as study:
        study.settle(settings, engine.environment, way)
        study.enrol(prompts, engine.encode, confirm_share=confirm_share, extend=extend)
        watch(Split(len(study.enrolled("search")), len(study.enrolled("confirm"))))
        work = Work(study, engine, batch_size, watch, turns)
        walked = walk(work, strategy, scorer, choice)
        steady = fluent(walked.observed, walked.calibration, walked.objections)
        priced: tuple[Priced, ...] = ()
        if limit is None:
            chosen = choose(walked.seen, choice, steady)
        else:
            chosen, priced = choose_within(walked.seen, choice, steady, limit)
        watch(Chosen(chosen, len(study.enrolled("confirm"))))
        confirmed = confirm(work, scorers, chosen)
        decision = decide(
            chosen,
            confirmed.results[chosen],
            confirmed.results[THETA1],
            objection=None if confirmed.objection is None else str(confirmed.objection),
            min_gain=min_gain,
            looks=0 if chosen == THETA1 else study.look(chosen),
        )
        wanted = write_model == "always" or (write_model == "ship" and decision.verdict is Verdict.SHIP)
        objections = {} if confirmed.objection is None else {chosen: confirmed.objection}
        return Outcome(
            study=out,
            theta0=direction.initial.folders[-1],
            theta1=direction.aligned.folders[-1],
            settings={**settings, **way, "choose": choice},
            rounds=walked.rounds,
            search=_rows(study, scorer.name, walked.observed, walked.calibration, walked.objections, steady),
            confirm=_rows(
                study,
                scorer.name,
                confirmed.observed,
                confirmed.calibration,
                objections,
                fluent(confirmed.observed, confirmed.calibration, objections),
            ),
            limit=None if limit is None else Limited(limit.name, limit.most, priced),
            decision=decision,
            gain_of_training=paired_difference(confirmed.results[THETA1].rewards, confirmed.results[THETA0].rewards),
            model=_keep_model(direction, chosen, dtype, out / "model", wanted and chosen != THETA1),
            costs=_costs(study),
            records={each.name: each.record() for each in scorers if isinstance(each, Recording)},
            examples=examples(study, sorted(confirmed.results)),
        )


def _rows(
    study: Study,
    scorer: str,
    observed: Mapping[float, Observed],
    calibration: Calibration,
    objections: Mapping[float, Objection],
    steady: Container[float],
) -> tuple[Row, ...]:
    theta1 = study.rewards(scorer, THETA1)
    # theta1 may have been asked by the guard alone, and is not scored then
    theta1 = {prompt: theta1[prompt] for prompt in observed[THETA1].replies}
    return tuple(
        row(
            alpha,
            observed[alpha],
            study.rewards(scorer, alpha),
            theta1,
            calibration,
            objections.get(alpha),
            fluent=alpha == THETA1 or alpha in steady,
        )
        for alpha in sorted(observed)
    )


def _costs(study: Study) -> dict[str, tuple[float, int]]:
    """Seconds and tokens of each activity."""
    spent = sum((each for alpha in study.alphas() for each in study.spent(alpha).values()), Spending())
    return {
        "generate": (spent.generating, spent.tokens),
        "read": (spent.reading, 0),
        "score": (spent.scoring, 0),
        "move": (sum(study.moves()), 0),
        **({"turn": (sum(turns), 0)} if (turns := study.turns()) else {}),
    }


def _keep_model(direction: Direction, alpha: float, dtype: OutputDtype, folder: Path, wanted: bool) -> Path | None:
    """The folder with theta(alpha), which is written if it is wanted and not there; None where it is not there.

    A model of another alpha does not stay where the present decision's would be.
    """
    if folder.exists():
        held = _alpha_of(folder)
        if held == alpha:
            return folder
        earlier = folder.with_name("model.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
        logger.warning(
            "%s: held alpha %g, which an earlier decision of this study chose; it is now %s", folder, held, earlier.name
        )
    if not wanted:
        return None
    adapter = adapter_on_theta0(direction)
    if adapter is not None and dtype == "keep":
        write(plan_adapter(direction.initial, adapter, alpha), folder)  # what `apply` writes, and what was judged
    else:
        write(plan(direction, alpha, dtype=dtype), folder)
    return folder


def _alpha_of(folder: Path) -> float:
    try:
        return float(json.loads((folder / PROVENANCE_NAME).read_text())["alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{folder}: is in the way of the model and not one of ours; move it") from None
