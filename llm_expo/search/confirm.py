"""The confirmation: theta0, theta1 and the choice answer the prompts that the search never saw, with fresh noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_expo.scoring import Comparer, Scorer
from llm_expo.search.events import Tried
from llm_expo.search.guard import AT_CONFIRMATION, Calibration, Objection, Observed, calibrate, judge
from llm_expo.search.rounds import THETA0, THETA1
from llm_expo.search.verdict import Confirmed
from llm_expo.search.work import Work
from llm_expo.stats import paired_difference


@dataclass(frozen=True, slots=True)
class Confirmation:
    """By alpha what each of the finalists did, and the guard's word on the choice."""

    results: Mapping[float, Confirmed]
    observed: Mapping[float, Observed]
    calibration: Calibration
    objection: Objection | None


def confirm(work: Work, scorers: Sequence[Scorer | Comparer], choice: float) -> Confirmation:
    """The first of the scorers is the one that chose."""
    prompts = work.study.enrolled("confirm")
    ids = [each.prompt.id for each in prompts]
    finalists = sorted({THETA1, THETA0, choice}, key=abs)
    replies = {alpha: work.answered(alpha, prompts, "confirm") for alpha in finalists}
    read = work.read(THETA0, dict.fromkeys(finalists, prompts), "confirm")
    observed = {alpha: Observed(replies[alpha], read[alpha]) for alpha in finalists}
    for scorer in scorers:
        work.score(scorer, dict.fromkeys(finalists, prompts), "confirm")

    def result(alpha: float) -> Confirmed:
        rewards = {scorer.name: work.study.rewards(scorer.name, alpha) for scorer in scorers}
        first, *others = ((name, [held[prompt] for prompt in ids]) for name, held in rewards.items())
        tokens = [float(len(observed[alpha].replies[prompt].tokens)) for prompt in ids]
        return Confirmed(first[1], tokens, dict(others))

    results = {alpha: result(alpha) for alpha in finalists}
    calibration = calibrate(observed[THETA0], observed[THETA1], work.engine.special_tokens)
    objection = None if choice == THETA1 else judge(observed[choice], calibration, AT_CONFIRMATION)
    for alpha in finalists:
        rewards = results[alpha].rewards
        gain = None if alpha == THETA1 else paired_difference(rewards, results[THETA1].rewards)
        word = str(objection) if objection is not None and alpha == choice else None
        work.watch(Tried("confirm", alpha, len(ids), sum(rewards) / len(ids), gain, word))
    return Confirmation(results, observed, calibration, objection)
