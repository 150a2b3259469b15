"""The decision on prompts that the search never saw. Pure: numbers in, a decision out; it knows neither replies nor a
study.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llm_expo.stats import Interval, intercept, paired_difference


class Verdict(StrEnum):
    """What the confirmation showed; the first that holds."""

    COLLAPSE = "COLLAPSE"
    """The guard objects to the choice, whatever its reward."""
    NO_GAIN = "NO GAIN"
    """No alpha did better than theta1 on the search prompts, or the gain lies below the least that matters."""
    UNDERPOWERED = "UNDERPOWERED"
    """The interval holds both nothing and a gain that matters: more prompts would decide."""
    SCORERS_DISAGREE = "SCORERS DISAGREE"
    """A second scorer does not show a gain."""
    GAIN_IS_LENGTH = "GAIN IS LENGTH"
    """At equal length, no gain is shown."""
    SHIP = "SHIP"
    """The gain over theta1 lies above 0."""


MIN_GAIN = 0.1
"""The least gain that matters, in standard deviations of theta1's rewards over the confirm prompts."""

FEWEST_PROMPTS = 20
"""On fewer confirm prompts nothing ships: their spread, and so the interval, is not known well enough."""

ERROR = 0.05
"""How often a bound errs, on one side, at the first look."""

MATCHED = 1.1
"""Two replies are of equal length if the longer one has at most so many times the tokens of the other."""

POWER = 0.8
"""The probability with which the prompts that are asked for are to decide."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What one alpha did on the confirm prompts: a value a prompt, all sequences in one order of the prompts.

    `tokens` are the lengths of its replies, `second` the rewards of further scorers by name.
    """

    rewards: Sequence[float]
    tokens: Sequence[float]
    second: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with all that it rests on.

    Every interval is of the choice minus theta1, paired over prompts; its ends are one-sided bounds that err with
    probability `error` each. All that compare the choice with theta1 are None where it is theta1.

    `gain` is of the reward, `least_gain` the least that matters, in its unit; `second` the gains by further scorers.
    `objection` is the guard's word, and the reward was `gamed` if it rose all the same. `tokens` and `theta1_tokens`
    are mean lengths, `longer` their difference. `at_equal_length` is the gain where both replies are equally long, by a
    regression of the difference of rewards on that of log lengths; `length_matched` the gain on those prompts whose
    replies are, None where there are fewer than two. `prompts_needed` is the number of confirm prompts, those that
    there are included, that would decide; None unless the verdict is UNDERPOWERED. `next` says what to do.
    """

    verdict: Verdict
    alpha: float
    error: float
    gain: Interval | None = None
    least_gain: float
    second: Mapping[str, Interval] = field(default_factory=dict)
    objection: str | None = None
    gamed: bool = False
    tokens: float
    theta1_tokens: float
    longer: Interval | None = None
    at_equal_length: Interval | None = None
    length_matched: Interval | None = None
    prompts_needed: int | None = None
    next: str


def error_at(looks: int) -> float:
    """The one-sided error of the bounds after so many looks at a study's confirm prompts.

    More prompts, or another choice on the same, are one more look: it may err half as often as the one before, so that
    all looks together err less than twice as often as the first (alpha-spending by a geometric series).
    """
    return float(ERROR / 2**looks)


def decide(
    alpha: float,
    choice: Confirmed,
    theta1: Confirmed,
    *,
    objection: str | None = None,
    min_gain: float | None = None,
    looks: int = 0,
) -> Decision:
    """The first verdict that holds of the choice.

    Args:
        alpha: the choice; 0 where it is theta1.
        choice: its rewards and lengths.
        theta1: those of theta1, on the same prompts; at least two, and it has every second scorer that `choice` has.
        objection: what the guard says against the choice, if anything.
        min_gain: the least gain that matters, in the reward's unit; `MIN_GAIN` standard deviations if None.
        looks: how often this study's confirm prompts were looked at before.
    """
    least = MIN_GAIN * statistics.stdev(theta1.rewards) if min_gain is None else min_gain
    error = error_at(looks)
    confidence = 1 - 2 * error
    tokens, theta1_tokens = statistics.fmean(choice.tokens), statistics.fmean(theta1.tokens)
    if alpha == 0:
        return Decision(
            verdict=Verdict.NO_GAIN,
            alpha=alpha,
            error=error,
            least_gain=least,
            tokens=tokens,
            theta1_tokens=theta1_tokens,
            next="Keep theta1.",
        )
    gain = paired_difference(choice.rewards, theta1.rewards, confidence)
    second = {
        name: paired_difference(rewards, theta1.second[name], confidence) for name, rewards in choice.second.items()
    }
    at_equal_length, length_matched = gain_at_equal_length(choice, theta1, confidence)
    verdict = _verdict(gain, least, second, at_equal_length, objection)
    needed = prompts_to_decide(gain, least, error / 2) if verdict is Verdict.UNDERPOWERED else None
    return Decision(
        verdict=verdict,
        alpha=alpha,
        error=error,
        gain=gain,
        least_gain=least,
        second=second,
        objection=objection,
        gamed=objection is not None and gain.low > 0,
        tokens=tokens,
        theta1_tokens=theta1_tokens,
        longer=paired_difference(choice.tokens, theta1.tokens, confidence),
        at_equal_length=at_equal_length,
        length_matched=length_matched,
        prompts_needed=needed,
        next=_next(verdict, gain, least, second, at_equal_length, needed),
    )


def gain_at_equal_length(
    choice: Confirmed, theta1: Confirmed, confidence: float
) -> tuple[Interval | None, Interval | None]:
    """The gain in reward where both replies are equally long: by regression, and on the prompts where they are.

    The regression is on the difference of the logarithms of lengths. On that of the lengths themselves, a reward that
    rises with the logarithm or the root of the length, or up to some length, leaves a gain where there is none (in
    simulations, up to 0.9 of the time where 0.05 was asked for). Each is None where there are too few prompts for it.
    """
    differences = [a - b for a, b in zip(choice.rewards, theta1.rewards, strict=True)]
    longer = [math.log(max(a, 1) / max(b, 1)) for a, b in zip(choice.tokens, theta1.tokens, strict=True)]
    matched = [gain for gain, ratio in zip(differences, longer, strict=True) if abs(ratio) <= math.log(MATCHED)]
    return (
        intercept(differences, longer, confidence) if len(differences) > 2 else None,
        paired_difference(matched, [0.0] * len(matched), confidence) if len(matched) > 1 else None,
    )


def prompts_to_decide(gain: Interval, least: float, error: float) -> int | None:
    """Confirm prompts, those in `gain` included, at which the next look would decide, if the gain is as measured.

    That is, at which a bound of one-sided `error` would with probability `POWER` show a gain, or that there is none
    that matters, whichever needs fewer; by the normal approximation. None where the gain could show neither.
    """
    normal = statistics.NormalDist()
    reach = (normal.inv_cdf(1 - error) + normal.inv_cdf(POWER)) * gain.se
    margin = max(gain.mean, least - gain.mean)
    if margin <= 0:
        return None
    return max(math.ceil(gain.n * (reach / margin) ** 2), FEWEST_PROMPTS, gain.n + 1)


def _verdict(
    gain: Interval,
    least: float,
    second: Mapping[str, Interval],
    at_equal_length: Interval | None,
    objection: str | None,
) -> Verdict:
    if objection is not None:
        return Verdict.COLLAPSE
    if gain.high <= least:
        return Verdict.NO_GAIN
    if gain.low <= 0 or gain.n < FEWEST_PROMPTS:
        return Verdict.UNDERPOWERED
    if any(other.low <= 0 for other in second.values()):
        return Verdict.SCORERS_DISAGREE
    if at_equal_length is None or at_equal_length.low <= 0:
        return Verdict.GAIN_IS_LENGTH
    return Verdict.SHIP


def _next(
    verdict: Verdict,
    gain: Interval,
    least: float,
    second: Mapping[str, Interval],
    at_equal_length: Interval | None,
    needed: int | None,
) -> str:
    match verdict:
        case Verdict.COLLAPSE:
            gamed = "The reward rose all the same: it was gamed, and should not choose alone. " if gain.low > 0 else ""
            return f"{gamed}Keep theta1, or try smaller alphas (--alphas, or --choose fluent if that was not the rule)."
        case Verdict.NO_GAIN:
            return "Keep theta1: alpha makes it worse." if gain.high < 0 else "Keep theta1."
        case Verdict.UNDERPOWERED if gain.n < FEWEST_PROMPTS:
            would = f"; about {needed} would decide" if needed is not None and needed > FEWEST_PROMPTS else ""
            least_ = f"{FEWEST_PROMPTS} are the least"
            return f"Add prompts with --extend: {gain.n} to confirm on are too few, {least_}{would}."
        case Verdict.UNDERPOWERED if needed is not None:
            shows = "a gain" if gain.mean >= least - gain.mean else "that no gain matters"
            return (
                f"Add prompts with --extend: {needed} to confirm on, {needed - gain.n} more than now, would show "
                f"{shows} in four cases of five, if the gain is as measured."
            )
        case Verdict.UNDERPOWERED:
            return "Keep theta1, or add prompts with --extend; how many would decide cannot be said."
        case Verdict.SCORERS_DISAGREE:
            names = ", ".join(name for name, other in second.items() if other.low <= 0)
            return f"Keep theta1, or read the replies and find out whom to believe: {names} shows no gain."
        case Verdict.GAIN_IS_LENGTH:
            open_ = at_equal_length is not None and at_equal_length.high > least
            more = " Whether there is more to it is not settled: more prompts (--extend) would tell." if open_ else ""
            return f"Keep theta1, unless longer replies are what is wanted; or score by what discounts length.{more}"
        case Verdict.SHIP:
            alone = "" if second else " A second scorer would show whether the first one was gamed; read some replies."
            return f"Use the model.{alone}"
