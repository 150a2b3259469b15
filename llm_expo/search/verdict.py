"""The decision on prompts that the search never saw. Pure."""

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum

from llm_expo.stats import Interval


class Verdict(StrEnum):
    """What the confirmation showed; the first that holds."""

    SHIP = "SHIP"
    """The paired interval of the choice's gain over theta1 lies above 0; 95 % at first, more after extensions."""
    NO_GAIN = "NO GAIN"
    """No alpha did better than theta1 on the search prompts, or the interval lies below the least gain that matters."""
    UNDERPOWERED = "UNDERPOWERED"
    """The interval holds both nothing and a gain that matters: more prompts would decide."""


MIN_GAIN = 0.1
"""The least gain that matters, in standard deviations of theta1's rewards over the confirm prompts."""

FEWEST_PROMPTS = 20
"""Fewer confirm prompts never ship: their spread, and so the interval, is not known well enough."""


def judge(gain: Interval | None, baseline: Sequence[float]) -> Verdict:
    """`gain` is the choice minus theta1, None where the choice is theta1 itself; `baseline` holds theta1's rewards."""
    if gain is None:
        return Verdict.NO_GAIN
    if gain.n < FEWEST_PROMPTS:
        return Verdict.UNDERPOWERED
    if gain.low > 0:
        return Verdict.SHIP
    if gain.high <= MIN_GAIN * statistics.stdev(baseline):
        return Verdict.NO_GAIN
    return Verdict.UNDERPOWERED


def prompts_needed(gain: Interval, power: float = 0.8) -> int | None:
    """Confirm prompts, those in `gain` included, at which a true gain as measured would ship with this probability.

    By the normal approximation, at the confidence of the next look; None where the measured gain is not above 0.
    """
    if gain.mean <= 0:
        return None
    normal = statistics.NormalDist()
    error = (1 - gain.confidence) / 2  # of both sides, at the next look
    reach = normal.inv_cdf(1 - error / 2) + normal.inv_cdf(power)
    return max(math.ceil(gain.n * (reach * gain.se / gain.mean) ** 2), FEWEST_PROMPTS)
