import numpy as np
import pytest

from llm_expo.search import curve as module
from llm_expo.search.curve import expected_gains, fit, heights, standard_errors


def noisy(alphas, counts, height, seed=0, own=1.0):
    random = np.random.default_rng(seed)
    levels = 3 * random.standard_normal(max(counts))
    return {
        alpha: list(height(alpha) + levels[:count] + own * random.standard_normal(count))
        for alpha, count in zip(alphas, counts, strict=True)
    }


def test_it_is_the_posterior_of_a_gaussian_process(monkeypatch):
    """Against the textbook form, every reward a row, with prompts' levels of an all but unlimited variance."""
    monkeypatch.setattr(module, "SCALES", (0.5,))
    monkeypatch.setattr(module, "HEIGHTS", (1.5,))
    rewards = noisy((-0.5, 0.0, 1.0, 4.0), (3, 6, 2, 5), lambda alpha: alpha)
    curve = fit(rewards, (2.0,), depth=np.inf)
    assert curve.alphas == (-0.5, 0.0, 1.0, 4.0, 2.0)

    at, prompt, reward = zip(
        *[(at, p, r) for at, alpha in enumerate(rewards) for p, r in enumerate(rewards[alpha])], strict=True
    )
    x = np.sign(curve.alphas) * np.log1p(np.abs(curve.alphas) / 0.5)
    variance = curve.noise**2 / 2
    scaled = np.sqrt(5) * np.abs(x[:, None] - x) / module.LENGTH
    prior = 1.5**2 * variance * (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    same = np.equal.outer(prompt, prompt)
    covariance = prior[np.ix_(at, at)] + 1e6 * same + variance * np.eye(len(at))
    cross = prior[:, at] @ np.linalg.inv(covariance)
    mean, posterior = cross @ np.array(reward), prior - cross @ prior[at, :]

    assert heights(curve) - heights(curve)[1] == pytest.approx(mean - mean[1], abs=1e-4)
    error = np.sqrt(np.diag(posterior) + posterior[1, 1] - 2 * posterior[1])
    assert standard_errors(curve, 1) == pytest.approx(error, abs=1e-4)


def test_the_noise_is_that_of_paired_differences():
    rewards = noisy((0.0, 1.0, 2.0), (4000, 4000, 2000), lambda alpha: alpha, own=0.7)
    curve = fit(rewards)
    assert curve.noise == pytest.approx(0.7 * 2**0.5, rel=0.02)
    assert heights(curve) - heights(curve)[0] == pytest.approx([0, 1, 2], abs=0.1)


def test_prompts_levels_do_not_matter():
    rewards = noisy((0.0, 1.0, 4.0), (8, 6, 8), lambda alpha: alpha)
    shifted = {alpha: [reward + 100 * place for place, reward in enumerate(mine)] for alpha, mine in rewards.items()}
    assert expected_gains(fit(shifted, (2.0,)), 0) == pytest.approx(expected_gains(fit(rewards, (2.0,)), 0))


def test_expected_gains_are_means_over_what_the_curve_may_be():
    curve = fit(noisy((0.0, 1.0, 4.0), (6, 6, 3), lambda alpha: 0.2 * alpha), (2.0, 8.0))
    random = np.random.default_rng(1)
    drawn = np.concatenate(
        [
            random.multivariate_normal(mean, covariance, round(200_000 * weight), check_valid="ignore")
            for weight, mean, covariance in zip(curve.weights, curve.means, curve.covariances, strict=True)
        ]
    )
    gains = np.maximum(drawn - drawn[:, 1, None], 0).mean(axis=0)
    assert expected_gains(curve, 1) == pytest.approx(gains, abs=0.01)
    assert standard_errors(curve, 1) == pytest.approx((drawn - drawn[:, 1, None]).std(axis=0), abs=0.01)


def test_neighbours_help():
    """What is known of 1 and 4 narrows what 2 may be; of 30 it says less."""
    curve = fit(noisy((0.0, 1.0, 4.0), (64, 64, 64), lambda alpha: alpha / 4), (2.0, 30.0))
    error = standard_errors(curve, 0)
    assert error[3] < error[4]
    assert heights(curve)[1] < heights(curve)[3] < heights(curve)[2]


def test_replies_that_are_all_alike():
    curve = fit({0.0: [1.0, 2.0], 0.05: [1.0, 2.0]}, (0.1,))
    assert max(expected_gains(curve, 0)) < 1e-3
