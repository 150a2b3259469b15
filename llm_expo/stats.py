"""Statistics of paired rewards. Pure: numbers in, numbers out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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
    import numpy as np
    from scipy.stats import t

    n = len(a)
    if n != len(b) or n < 2:
        raise ValueError(f"a paired difference needs two sequences of one length, at least 2: {n}, {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean, se = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    reach = float(t.ppf((1 + confidence) / 2, df=n - 1)) * se
    return Interval(mean, se, mean - reach, mean + reach, n, confidence)


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
