"""The decision on prompts that the search never saw. Pure."""

import statistics
from collections.abc import Sequence
from enum import StrEnum

from llm_expo.stats import Interval


class Verdict(StrEnum):
    """What the confirmation showed; the first that holds."""

    SHIP = "SHIP"
    """The paired 95 % interval of the choice's gain over theta1 lies above 0."""
    NO_GAIN = "NO GAIN"
    """No alpha did better than theta1 on the search prompts, or the interval lies below the least gain that matters."""
    UNDERPOWERED = "UNDERPOWERED"
    """The interval holds both nothing and a gain that matters: more prompts would decide."""


MIN_GAIN = 0.1
"""The least gain that matters, in standard deviations of theta1's rewards over the confirm prompts."""


def judge(gain: Interval | None, baseline: Sequence[float]) -> Verdict:
    """`gain` is the choice minus theta1, None where the choice is theta1 itself; `baseline` holds theta1's rewards."""
    if gain is None:
        return Verdict.NO_GAIN
    if gain.low > 0:
        return Verdict.SHIP
    if gain.high < MIN_GAIN * statistics.stdev(baseline):
        return Verdict.NO_GAIN
    return Verdict.UNDERPOWERED


def prompts_needed(gain: Interval) -> int | None:
    """Confirm prompts at which a mean gain as measured would be told from 0; None where it is not above 0."""
    if gain.mean <= 0:
        return None
    half_width = gain.high - gain.mean
    return round(gain.n * (half_width / gain.mean) ** 2) + 1
