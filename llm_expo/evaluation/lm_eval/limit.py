"""A choice of alpha under a limit on the tax. Pure, and knows neither models nor tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_expo.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Taxed:
    """An alpha with its mean reward, and its tax against theta1 in points, with the standard error of that.

    Above 0 the tax is a loss: it is minus the mean of a table's paired differences. theta1 itself has none: 0, 0.
    """

    alpha: float
    reward: float
    tax: float
    se: float

    @property
    def bound(self) -> float:
        """Below it the tax lies with 95 % confidence (one-sided, normal)."""
        return self.tax + 1.6448536269514722 * self.se


def best_within(found: Sequence[Taxed], most: float) -> Taxed | None:
    """The best reward whose tax's upper bound stays under `most` points; None where no alpha's does.

    Of equal rewards the smaller alpha, which is nearer to theta1.

    Raises EvaluationError for a limit that is not above 0, under which not even theta1's tax of 0 would stay.
    """
    if not most > 0:
        raise EvaluationError(f"--max-tax {most:g}: a limit on the tax is above 0 points")
    allowed = [each for each in found if each.bound < most]
    return max(allowed, key=lambda each: (each.reward, -abs(each.alpha)), default=None)
