"""The search itself: ask for an alpha, generate, score, repeat; confirm the best on fresh prompts; write the model."""

import json
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import OutputError, StudyError
from llm_expo.generation import Engine, Json, Prompt, Request
from llm_expo.scoring import Scorer, rewards
from llm_expo.search.outcome import FLUENCY, THETA0, THETA1, Outcome, examples, gain_over_theta1, row
from llm_expo.search.strategies import Grid, Strategy
from llm_expo.search.study import Part, Study
from llm_expo.search.verdict import Verdict, judge
from llm_expo.stats import Interval, paired_difference
from llm_expo.weights import Direction, OutputDtype, plan, write

logger = logging.getLogger(__name__)

BATCH_SIZE = 16

Activity = Literal["generate", "score", "fluency"]
B = TypeVar("B")
R = TypeVar("R")


@dataclass(frozen=True)
class Done:
    """`done` of `total` replies of `part` at `alpha` that were missing are through `activity`."""

    activity: Activity
    part: Part
    alpha: float
    done: int
    total: int


@dataclass(frozen=True)
class Tried:
    """theta(alpha) has answered all of `part`: its mean reward, and the paired difference to theta1 but for theta1."""

    part: Part
    alpha: float
    reward: float
    gain: Interval | None


Watch = Callable[[Done | Tried], None]


def search(
    direction: Direction,
    prompts: Sequence[Prompt],
    engine: Engine,
    scorer: Scorer,
    out: str | os.PathLike[str],
    *,
    strategy: Strategy | None = None,
    confirm_share: float = 1 / 3,
    batch_size: int = BATCH_SIZE,
    extend: bool = False,
    write_model: Literal["ship", "always", "never"] = "ship",
    dtype: OutputDtype = "keep",
    watch: Watch = lambda _: None,
) -> Outcome:
    """Find alpha, confirm it, and write the model to `out`/model if it is better than theta1.

    Every reply and reward is kept in the study folder `out` as soon as it exists; called again with the same arguments
    after it was killed, the search goes on and ends the same.

    Args:
        direction: the pair, (theta0, theta1).
        prompts: development prompts; the share `confirm_share` of them is set aside for the confirmation.
        engine: makes the replies.
        scorer: judges them.
        strategy: which alpha to try next; the paper's grid if None.
        batch_size: prompts that are generated together.
        extend: add those of `prompts` that the study does not hold yet.
        write_model: "ship" writes on the verdict SHIP only.
        dtype: of the model that is written; what the engine was given, so that it is the model that was judged.
        watch: told after every batch and every alpha.

    Raises:
        ExpoError: its kinds in `llm_expo.errors`, each one line for the user; what was done is kept.
    """
    if not 0 < confirm_share < 1:
        raise StudyError(f"the share of prompts to confirm on is {confirm_share:g}; it has to lie between 0 and 1")
    if batch_size < 1:
        raise StudyError(f"the batch size is {batch_size}; it has to be at least 1")
    strategy, out = strategy or Grid(), Path(out)
    settings: dict[str, Json] = {
        **engine.settings,
        "scorer": scorer.name,
        "strategy": repr(strategy),
        "confirm_share": confirm_share,
        "batch_size": batch_size,
    }
    with Study.open(out) as study:
        study.settle(settings, engine.environment)
        study.enrol(prompts, engine.encode, confirm_share=confirm_share, batch_size=batch_size, extend=extend)
        work = _Work(study, engine, scorer, watch)

        tried = {THETA1: work.reward(THETA1, "search")}
        while (alpha := strategy(tried)) is not None:
            tried[alpha] = work.reward(alpha, "search")
        choice = max(tried, key=lambda alpha: (tried[alpha], -abs(alpha)))

        finalists = sorted({THETA0, THETA1, choice})
        for alpha in sorted(finalists, key=abs):  # theta1 first: the others are compared with it
            work.reward(alpha, "confirm")
        for alpha in sorted(tried):
            work.fluency(alpha, "search")
        for alpha in finalists:
            work.fluency(alpha, "confirm")

        theta0, theta1 = (study.rewards(scorer.name, alpha, "confirm") for alpha in (THETA0, THETA1))
        # Every extension is one more look at the same question: it may err half as often as the look before, so that
        # all looks together err less than twice as often as the first (alpha-spending by a geometric series).
        confidence = 1 - 0.05 / 2 ** study.extensions()
        gain = gain_over_theta1(study, scorer.name, choice, "confirm", confidence)
        verdict = judge(gain, theta1)
        wanted = write_model == "always" or (write_model == "ship" and verdict is Verdict.SHIP)
        return Outcome(
            study=out,
            theta0=direction.initial.folders[-1],
            theta1=direction.aligned.folders[-1],
            settings=settings,
            search=tuple(row(study, scorer.name, alpha, "search") for alpha in sorted(tried)),
            confirm=tuple(row(study, scorer.name, alpha, "confirm") for alpha in finalists),
            choice=choice,
            verdict=verdict,
            gain=gain,
            gain_of_training=paired_difference(theta1, theta0),
            model=None if choice == THETA1 else _keep_model(direction, choice, dtype, out / "model", wanted),
            costs=study.costs(),
            examples=examples(study, finalists),
        )


class _Work:
    """Brings an alpha's rows to completeness, from wherever an earlier run left them."""

    def __init__(self, study: Study, engine: Engine, scorer: Scorer, watch: Watch) -> None:
        self._study = study
        self._engine = engine
        self._scorer = scorer
        self._watch = watch

    def reward(self, alpha: float, part: Part) -> float:
        """The mean reward of theta(alpha) on a part, after generating and scoring what is missing."""
        self._generate(alpha, part)
        self._score(alpha, part)
        reward = statistics.fmean(self._study.rewards(self._scorer.name, alpha, part))
        gain = gain_over_theta1(self._study, self._scorer.name, alpha, part)
        self._watch(Tried(part, alpha, reward, gain))
        return reward

    def fluency(self, alpha: float, part: Part) -> None:
        """See to it that every reply of theta(alpha) has its log-probability under theta0."""
        batches = self._study.unscored(FLUENCY, alpha, part)
        asked = ([(each.enrolled.tokens, each.reply.tokens) for each in batch] for batch in batches)
        values = self._engine.log_probabilities(THETA0, asked)
        self._through("fluency", alpha, part, batches, values, partial(self._study.add_rewards, FLUENCY))

    def _generate(self, alpha: float, part: Part) -> None:
        batches = self._study.unanswered(alpha, part)
        # Shared noise ties the alphas of the search together; the confirmation is to be independent of it.
        noise = "search" if part == "search" else f"confirm {alpha!r}"
        asked = ([Request(each.prompt.id, each.tokens, noise) for each in batch] for batch in batches)
        replies = self._engine.generate(alpha, asked)
        self._through("generate", alpha, part, batches, replies, partial(self._study.add_replies, alpha))

    def _score(self, alpha: float, part: Part) -> None:
        name = self._scorer.name
        batches = self._study.unscored(name, alpha, part)
        values = (rewards(self._scorer, [completion.conversation for completion in batch]) for batch in batches)
        self._through("score", alpha, part, batches, values, partial(self._study.add_rewards, name))

    def _through(
        self,
        activity: Activity,
        alpha: float,
        part: Part,
        batches: Sequence[Sequence[B]],
        results: Iterable[R],
        commit: Callable[[Sequence[B], R, float], None],
    ) -> None:
        """Commit each batch with its result and the seconds that it took, as soon as it is there."""
        if not batches:
            return  # before `results` is asked for anything: an engine would load and move its model
        done, total, since = 0, sum(map(len, batches)), time.monotonic()
        for batch, result in zip(batches, results, strict=True):
            now = time.monotonic()
            commit(batch, result, now - since)
            done, since = done + len(batch), now
            self._watch(Done(activity, part, alpha, done, total))


def _keep_model(direction: Direction, alpha: float, dtype: OutputDtype, folder: Path, wanted: bool) -> Path | None:
    """The folder with theta(alpha), which is written if it is wanted and not there; None where it is not there."""
    if folder.exists():
        held = _alpha_of(folder)
        if held == alpha:
            return folder
        logger.warning("%s: holds alpha %g, which an earlier decision of this study chose", folder, held)
    if not wanted:
        return None
    replaced = folder.with_name("model.replaced.partial")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    write(plan(direction, alpha, dtype=dtype), folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _alpha_of(folder: Path) -> float:
    try:
        return float(json.loads((folder / PROVENANCE_NAME).read_text())["alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{folder}: is in the way of the model and not one of ours; move it") from None
