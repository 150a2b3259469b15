"""The reward as a curve over alpha, from paired rewards: every alpha's replies tell something of its neighbours'.

A Gaussian process over x = sign(alpha) log(1 + |alpha| / scale): far below `scale` the curve is smooth in alpha, as the
weights are, and far above it in log alpha. Which scale and which height fit is not decided but averaged over, by their
marginal likelihood (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: posterior eq. 2.23-2.24,
marginal likelihood eq. 2.30, Matern 5/2 kernel eq. 4.17). Knows nothing of prompts, budgets or decisions.

The rewards are taken as reward = curve(alpha) + the prompt's own level + noise, with the levels unrestricted: only
differences on the same prompt count. So the curve is known up to a constant, and only differences of it mean anything.
The guard has log-probabilities for rewards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LENGTH = 0.5
"""In x: over a factor of about 1.6 in alpha the curve may bend."""
SCALES = (0.1, 0.5, 2.5, 12.5)
HEIGHTS = (0.3, 1.0, 3.0)
"""Standard deviation of the curve, in those of the noise."""
DEPTH = 4.0
"""In standard deviations of the noise: an alpha further below the best counts as no lower. How deep the rewards of
gibberish lie says nothing of the curve elsewhere, and would bend it there."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What the rewards say of the curve at `alphas` (A of them), for each of H pairs of scale and height.

    weights: float64 [H], sum 1. means: float64 [H, A]. covariances: float64 [H, A, A].
    noise: the standard deviation of a paired difference of two rewards.
    """

    alphas: tuple[float, ...]
    weights: "Floats"
    means: "Floats"
    covariances: "Floats"
    noise: float


def fit(rewards: Mapping[float, Sequence[float]], beside: Sequence[float] = (), depth: float = DEPTH) -> Curve:
    """The curve at the alphas of `rewards`, ascending, followed by those of `beside`, which have no rewards.

    Args:
        rewards: alpha -> its rewards on the first prompts; all alphas answer the same prompts in the same order. A NaN
            is a prompt that was not answered.
        depth: as `DEPTH`; infinite where how deep it lies is what matters.
    """
    import numpy as np

    tried = sorted(rewards)
    precision, pull, variance = _paired(rewards, tried, depth)
    alphas, t = np.array([*tried, *beside]), len(tried)
    scale, height = (np.array(each)[:, None] for each in zip(*product(SCALES, HEIGHTS), strict=True))
    x = np.sign(alphas) * np.log1p(np.abs(alphas) / scale)
    prior = height[..., None] ** 2 * _matern(np.abs(x[:, :, None] - x[:, None]))
    seen = np.eye(t) + precision @ prior[:, :t, :t]
    means = (prior[:, :, :t] @ np.linalg.solve(seen, np.broadcast_to(pull[:, None], (len(x), t, 1))))[..., 0]
    covariances = variance * (prior - prior[:, :, :t] @ np.linalg.solve(seen, precision @ prior[:, :t]))
    fits = (means[:, :t] @ pull / variance - np.linalg.slogdet(seen)[1]) / 2
    weights = np.exp(fits - fits.max())
    return Curve((*tried, *beside), weights / weights.sum(), means, covariances, float(np.sqrt(2 * variance)))


def heights(curve: Curve) -> "Floats":
    """float64 [A]: the expected curve, up to a constant."""
    return curve.weights @ curve.means


def expected_gains(curve: Curve, over: int) -> "Floats":
    """float64 [A]: what each alpha is expected to win over the one at place `over`, counting 0 where it would lose.

    Expected improvement (Jones, Schonlau and Welch 1998, eq. 15), of the difference of two uncertain values.
    """
    import numpy as np
    from scipy.special import ndtr

    ahead = curve.means - curve.means[:, over, None]
    sd = np.sqrt(_variances(curve, over))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sd > 0, ahead / sd, 0.0)
    gains = ahead * ndtr(z) + sd * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return curve.weights @ np.where(sd > 0, gains, np.maximum(ahead, 0.0))


def standard_errors(curve: Curve, to: int) -> "Floats":
    """float64 [A]: of each alpha's paired difference to the one at place `to`."""
    import numpy as np

    ahead = curve.means - curve.means[:, to, None]
    between = curve.weights @ (ahead - curve.weights @ ahead) ** 2
    return np.sqrt(curve.weights @ _variances(curve, to) + between)


def _variances(curve: Curve, to: int) -> "Floats":
    import numpy as np

    own = np.diagonal(curve.covariances, axis1=1, axis2=2)
    return np.maximum(own + own[:, to, None] - 2 * curve.covariances[:, to], 0.0)


def _matern(distance: "Floats") -> "Floats":
    import numpy as np

    scaled = np.sqrt(5) * distance / LENGTH
    correlation: Floats = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return correlation


def _paired(
    rewards: Mapping[float, Sequence[float]], tried: Sequence[float], depth: float
) -> tuple["Floats", "Floats", float]:
    """The likelihood of the curve at `tried`: its precision in units of 1 / variance, its linear term in the units of
    rewards / variance, and the variance of the noise.

    That is the two-way layout with unequal counts, the prompts' levels eliminated: a prompt answered at k alphas adds
    I - 11'/k to the precision and its centred rewards to the linear term.
    """
    import numpy as np

    table = np.full((len(tried), max(map(len, rewards.values()))), np.nan)
    for place, alpha in enumerate(tried):
        table[place, : len(rewards[alpha])] = rewards[alpha]
    there = ~np.isnan(table)
    counts = there.sum(axis=0)
    table = np.where(there, table - np.nanmean(table, axis=0), 0.0)
    precision = np.diag(there.sum(axis=1)) - (there / counts) @ there.T
    pull = table.sum(axis=1)
    height = np.linalg.pinv(precision, hermitian=True) @ pull
    fitted = np.where(there, height[:, None], 0.0)
    residuals = np.where(there, table - fitted + fitted.sum(axis=0) / counts, 0.0)
    freedom = there.sum() - len(counts) - (len(tried) - 1)
    # A floor: replies that are all alike (a tiny alpha, the same noise) have no spread, and it is divided by.
    variance = max(float((residuals**2).sum()) / max(freedom, 1), 1e-12)
    lift = np.maximum(height.max() - depth * np.sqrt(variance) - height, 0.0)
    return precision, pull + precision @ lift, variance
