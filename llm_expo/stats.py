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
