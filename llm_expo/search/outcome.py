"""What a search found, read off a study's rows; nothing here generates or scores."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo.generation import Json, Prompt
from llm_expo.search.guard import Calibration, Finding, Lengthening, Objection, Observed, examine, lengthening
from llm_expo.search.limit import Priced
from llm_expo.search.rounds import THETA1, Round
from llm_expo.search.study import Study
from llm_expo.search.symptoms import Symptoms, symptoms
from llm_expo.search.verdict import Decision, Verdict
from llm_expo.stats import Interval, paired_difference


@dataclass(frozen=True, slots=True)
class Row:
    """One alpha on those prompts of one part that it answered; figures are None where it answered none.

    `reward` and `log_probability` (of the replies under theta0, nats per token) are means over prompts; `gain` is the
    paired difference of reward to theta1, on the prompts that both answered, None for theta1 itself. `findings` are the
    guard's, with their limits, `lengthening` is the change of length; `collapsed` is the guard's word, `fluent` says
    whether the replies have stayed as near to theta1's as `--choose fluent` asks.
    """

    alpha: float
    prompts: int
    reward: float | None
    gain: Interval | None
    log_probability: float | None
    symptoms: Symptoms | None
    findings: tuple[Finding, ...]
    lengthening: Lengthening | None
    collapsed: str | None
    fluent: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A confirm prompt and what each finalist replied to it, by alpha."""

    prompt: Prompt
    replies: Mapping[float, str]


@dataclass(frozen=True, slots=True)
class Limited:
    """What the choice had to stay within (`llm_expo.search.limit`), and the finalists' prices, the best one first."""

    name: str
    most: float
    priced: tuple[Priced, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    `rounds` are those of the search, in their order. `search` and `confirm` hold a row per alpha, ascending. On the
    confirm prompts, `decision` judges the choice, and `gain_of_training` is theta1 minus theta0. `costs` maps an
    activity to its seconds and tokens, over all runs of the study; `records` are what scorers say of their work, such
    as a judge's bill, by their names. `model` is the folder that was written, if one was. `examples` are spread evenly
    over the confirm prompts, from the longest to the shortest, whatever was replied.
    """

    study: Path
    theta0: Path
    theta1: Path
    settings: Mapping[str, Json]
    rounds: tuple[Round, ...]
    search: tuple[Row, ...]
    confirm: tuple[Row, ...]
    limit: Limited | None
    decision: Decision
    gain_of_training: Interval
    costs: Mapping[str, tuple[float, int]]
    records: Mapping[str, object]
    model: Path | None
    examples: tuple[Example, ...]

    @property
    def choice(self) -> float:
        return self.decision.alpha

    @property
    def verdict(self) -> Verdict:
        return self.decision.verdict


def examples(study: Study, alphas: Sequence[float], wanted: int = 4) -> tuple[Example, ...]:
    """Up to `wanted` confirm prompts with the replies of `alphas`."""
    prompts = [each.prompt for each in study.enrolled("confirm")]
    replies = {alpha: study.replies(alpha) for alpha in alphas}
    places = sorted({(2 * i + 1) * len(prompts) // (2 * wanted) for i in range(wanted)})
    return tuple(
        Example(prompts[place], {alpha: replies[alpha][prompts[place].id].text for alpha in alphas}) for place in places
    )


def gain_over_theta1(rewards: Mapping[str, float], theta1: Mapping[str, float]) -> Interval | None:
    """The paired difference on the prompts that both have; None with fewer than two."""
    common = [prompt for prompt in rewards if prompt in theta1]
    if len(common) < 2:
        return None
    return paired_difference([rewards[prompt] for prompt in common], [theta1[prompt] for prompt in common])


def row(
    alpha: float,
    observed: Observed,
    rewards: Mapping[str, float],
    theta1: Mapping[str, float],
    calibration: Calibration,
    objection: Objection | None,
    *,
    fluent: bool,
) -> Row:
    """Of what was observed; `rewards` are those of the alpha, `theta1` of theta1, by prompt id, and may be of more."""
    rewards = {prompt: rewards[prompt] for prompt in observed.replies}
    compared = alpha != THETA1 and len(rewards.keys() & calibration.theta1.replies.keys()) > 1
    return Row(
        alpha=alpha,
        prompts=len(rewards),
        reward=statistics.fmean(rewards.values()) if rewards else None,
        gain=None if alpha == THETA1 else gain_over_theta1(rewards, theta1),
        log_probability=statistics.fmean(observed.log_probabilities.values()) if observed.log_probabilities else None,
        symptoms=symptoms([*observed.replies.values()], calibration.special_tokens) if rewards else None,
        findings=examine(observed, calibration) if alpha != THETA1 else (),
        lengthening=lengthening(observed, calibration.theta1) if compared else None,
        collapsed=None if objection is None else str(objection),
        fluent=fluent,
    )
