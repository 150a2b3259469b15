"""What a search found, read off a study's rows; nothing here generates or scores."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo.generation import Json, Prompt
from llm_expo.search.study import Part, Study
from llm_expo.search.symptoms import Symptoms, symptoms
from llm_expo.search.verdict import Verdict
from llm_expo.stats import Interval, paired_difference

THETA0, THETA1 = -1.0, 0.0
"""The alphas at which theta(alpha) is theta0 and theta1."""

FLUENCY = "log-probability under theta0"
"""What the log-probabilities of replies are filed under in a study, beside the scorer's rewards."""


@dataclass(frozen=True)
class Row:
    """One alpha on the prompts of one part.

    `reward` and `log_probability` (of the replies under theta0, nats per token) are means over prompts; `gain` is the
    paired difference of reward to theta1, None for theta1 itself.
    """

    alpha: float
    prompts: int
    reward: float
    gain: Interval | None
    log_probability: float
    symptoms: Symptoms


@dataclass(frozen=True)
class Example:
    """A confirm prompt and what each finalist replied to it, by alpha."""

    prompt: Prompt
    replies: Mapping[float, str]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    `search` and `confirm` hold a row per alpha, ascending; `choice` is the alpha of the highest mean reward on the
    search prompts. On the confirm prompts, `gain` is the choice minus theta1 (None where they are the same) and
    `gain_of_training` theta1 minus theta0. `costs` maps an activity to its seconds and tokens, over all runs of the
    study. `model` is the folder that was written, if one was. `examples` are spread evenly over the confirm prompts,
    from the longest to the shortest, whatever was replied.
    """

    study: Path
    theta0: Path
    theta1: Path
    settings: Mapping[str, Json]
    search: tuple[Row, ...]
    confirm: tuple[Row, ...]
    choice: float
    verdict: Verdict
    gain: Interval | None
    gain_of_training: Interval
    costs: Mapping[str, tuple[float, int]]
    model: Path | None
    examples: tuple[Example, ...]


def examples(study: Study, alphas: Sequence[float], wanted: int = 4) -> tuple[Example, ...]:
    """Up to `wanted` confirm prompts with the replies of `alphas`."""
    prompts = study.prompts("confirm")
    replies = {alpha: study.replies(alpha, "confirm") for alpha in alphas}
    places = sorted({(2 * i + 1) * len(prompts) // (2 * wanted) for i in range(wanted)})
    return tuple(Example(prompts[place], {alpha: replies[alpha][place].text for alpha in alphas}) for place in places)


def gain_over_theta1(study: Study, scorer: str, alpha: float, part: Part, confidence: float = 0.95) -> Interval | None:
    """The paired difference of theta(alpha)'s rewards to theta1's on a part; None for theta1 itself."""
    if alpha == THETA1:
        return None
    return paired_difference(study.rewards(scorer, alpha, part), study.rewards(scorer, THETA1, part), confidence)


def row(study: Study, scorer: str, alpha: float, part: Part) -> Row:
    """The row of an alpha whose replies are all there, scored and measured."""
    rewards = study.rewards(scorer, alpha, part)
    fluency = study.rewards(FLUENCY, alpha, part)
    return Row(
        alpha=alpha,
        prompts=len(rewards),
        reward=statistics.fmean(rewards),
        gain=gain_over_theta1(study, scorer, alpha, part),
        log_probability=statistics.fmean(fluency),
        symptoms=symptoms(study.replies(alpha, part)),
    )
