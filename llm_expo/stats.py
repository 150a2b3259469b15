"""Statistics of paired rewards. Pure: numbers in, numbers out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error and a two-sided interval of the given confidence, over `n` pairs."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    confidence: float = 0.95


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of a - b with Student's t interval; `a` and `b` hold the rewards of the same prompts, in order.

    Raises:
        ValueError: for other than two sequences of one length, at least 2.
    """
    from scipy.stats import t

    differences = _differences(a, b)
    n = len(differences)
    mean, se = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    reach = float(t.ppf((1 + confidence) / 2, df=n - 1)) * se
    return Interval(mean, se, mean - reach, mean + reach, n, confidence)


def always_valid_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of a - b with an interval that one may look at after every pair and as often as one likes.

    With the stated confidence, all the intervals that `a` and `b` give as they grow hold the true mean. They are the
    means that the scale-invariant t-test martingale with a Gaussian mixture does not reject (Wang and Ramdas,
    "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance", arXiv 2310.03722,
    theorem 4.9, with c = 1, solved for the mean): exact for Gaussian differences, on the safe side for other symmetric
    ones, as those of two alphas with the same rewards are; not for skewed ones. Unbounded while there are too few
    pairs to tell.

    Raises:
        ValueError: for other than two sequences of one length, at least 2.
    """
    differences = _differences(a, b)
    n = len(differences)
    mean, variance = float(differences.mean()), float(differences.var())
    rest = ((1 - confidence) ** 2 / (n + 1)) ** (1 / n)
    margin = rest * (n + 1) - 1
    reach = math.sqrt(variance * (1 - rest) * (n + 1) / margin) if margin > 0 else math.inf
    return Interval(mean, math.sqrt(variance / (n - 1)), mean - reach, mean + reach, n, confidence)


def intercept(y: Sequence[float], x: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of y where x is 0, by least squares on x, with Student's t interval.

    The standard error allows for a spread of y that changes with x (HC3: MacKinnon and White, 1985). Where all x are
    one number other than 0, the intercept is not known: the interval is infinite.

    Raises:
        ValueError: for other than two sequences of one length, at least 3.
    """
    import numpy as np
    from scipy.stats import t

    n = len(y)
    if n != len(x) or n < 3:
        raise ValueError(f"a regression needs two sequences of one length, at least 3: {n}, {len(x)}")
    ys, xs = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
    if np.ptp(xs) == 0:
        if xs[0] == 0:
            return paired_difference(ys.tolist(), [0.0] * n, confidence)
        return Interval(float(ys.mean()), math.inf, -math.inf, math.inf, n, confidence)
    centred = xs - xs.mean()
    squares = float(centred @ centred)
    slope = float(centred @ ys) / squares
    mean = float(ys.mean() - slope * xs.mean())
    residuals = ys - mean - slope * xs
    leverage = 1 / n + centred**2 / squares
    weights = 1 / n - xs.mean() * centred / squares  # the intercept is their product with y
    # A point of leverage 1 is fitted exactly, whatever its error was: it says nothing about errors.
    alone = leverage > 1 - 1e-9
    errors = np.where(alone, 0.0, residuals / np.where(alone, 1.0, 1 - leverage))
    se = float(np.sqrt(((weights * errors) ** 2).sum()))
    reach = float(t.ppf((1 + confidence) / 2, df=n - 2)) * se
    return Interval(mean, se, mean - reach, mean + reach, n, confidence)


def _differences(a: Sequence[float], b: Sequence[float]) -> "NDArray[np.float64]":
    import numpy as np

    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a paired difference needs two sequences of one length, at least 2: {len(a)}, {len(b)}")
    return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
