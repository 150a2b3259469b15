"""Worlds made up: a curve of reward over alpha, and noise around it."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from world import CONFIRM_SHARE, Floats, World, fitting

from llm_expo.search.race import ALPHAS

LATTICE = np.unique([-1.0, -0.75, -0.5, -0.25, 0.0, *ALPHAS, *(0.05 * 2 ** (np.arange(57) / 6))])

Generator = np.random.Generator


def usual(random: Generator) -> tuple[float, Floats]:
    """An optimum log-uniform in 0.1 to 10, a gain of 0.3 to 2 standard deviations of the reward, a cliff at 1.5 to 4
    times the optimum; in one world of five nothing helps.
    """
    optimum = math.exp(random.uniform(math.log(0.1), math.log(10)))
    gain = math.exp(random.uniform(math.log(0.3), math.log(2)))
    cliff = optimum * math.exp(random.uniform(math.log(1.5), math.log(4)))
    depth = random.uniform(1, 3)
    u = LATTICE / optimum
    shapes = (
        gain * np.where(u > 1, 1 - 0.25 * (u - 1) ** 2, u * (2 - u)),
        gain * u * np.exp(1 - u),
        gain * (1 - np.exp(-2 * u)) / (1 - math.exp(-2)),
        -gain * np.abs(u) / 2,
        np.zeros_like(u),
    )
    useless = random.uniform() < 0.2
    shape = shapes[random.integers(3, 5) if useless else random.integers(3)]
    return optimum, np.maximum(shape, -depth) - depth * fallen(cliff, 0.15)


def optimum_at(at: float, gain: float = 0.7) -> Callable[[Generator], tuple[float, Floats]]:
    u = LATTICE / at
    return lambda _: (at, np.maximum(gain * u * np.exp(1 - u), -2) - 2 * fallen(2.5 * at, 0.15))


def two_humps(random: Generator) -> tuple[float, Floats]:
    """At 0.3 and at 8, theta1's reward between them; either may be the higher one."""
    high = 0.8 if random.uniform() < 0.5 else 0.4
    humps = high * hump(0.3, 0.6) + (1.2 - high) * hump(8.0, 0.6)
    return 0.3, np.where(LATTICE > 0, humps, 2 * LATTICE) - 2 * fallen(25.0, 0.15)


def plateau(_: Generator) -> tuple[float, Floats]:
    """All alphas from about 0.3 to 30 are equally good."""
    return 0.3, np.maximum(0.5 * (1 - np.exp(-LATTICE / 0.1)), -2)


def nothing(_: Generator) -> tuple[float, Floats]:
    return 1.0, np.zeros_like(LATTICE)


def edge(random: Generator) -> tuple[float, Floats]:
    """The reward rises to the very edge of a cliff."""
    at = math.exp(random.uniform(math.log(0.2), math.log(10)))
    return at, np.maximum(0.7 * LATTICE / at, -1) * (at >= LATTICE) - 3 * (at < LATTICE)


def fallen(cliff: float, width: float) -> Floats:
    """From 0 to 1, in log alpha."""
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(LATTICE > 0, np.log(LATTICE / cliff), -math.inf)
    return np.asarray(1 / (1 + np.exp(np.minimum(-behind / width, 50))))


def hump(at: float, width: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(LATTICE > 0, np.log(LATTICE / at), math.inf)
    return np.asarray(np.exp(-((x / width) ** 2)))


KINDS: dict[str, Callable[[Generator], tuple[float, Floats]]] = {
    "usual": usual,
    "low": optimum_at(0.06),
    "high": optimum_at(20.0),
    "two-humps": two_humps,
    "plateau": plateau,
    "nothing": nothing,
    "edge": edge,
    "heavy-tails": usual,
}


class Noise:
    """Of standard deviation 1: the prompt's part, a part that neighbouring alphas share, and each alpha's own.

    With heavy tails, the own part is Student's t with 2.5 degrees of freedom, and skewed.
    """

    PROMPT, NEIGHBOUR = 0.3, 0.4

    def __init__(self, random: Generator, optimum: float, *, heavy: bool) -> None:
        self._random, self._heavy = random, heavy
        x = np.sign(LATTICE) * np.log1p(np.abs(LATTICE) / (0.1 * optimum))
        alike = np.exp(-np.abs(x[:, None] - x))
        self._root = np.linalg.cholesky(alike + 1e-9 * np.eye(len(x)))

    def shared(self, prompts: int) -> Floats:
        prompt, neighbour = self._random.standard_normal((2, len(LATTICE), prompts))
        smooth = math.sqrt(self.PROMPT) * prompt[0] + math.sqrt(self.NEIGHBOUR) * (self._root @ neighbour)
        return np.asarray(smooth + math.sqrt(1 - self.PROMPT - self.NEIGHBOUR) * self.own(prompts))

    def fresh(self, prompts: int) -> Floats:
        prompt = self._random.standard_normal(prompts)
        return np.asarray(math.sqrt(self.PROMPT) * prompt + math.sqrt(1 - self.PROMPT) * self.own(prompts))

    def own(self, prompts: int) -> Floats:
        size = (len(LATTICE), prompts)
        if not self._heavy:
            return self._random.standard_normal(size)
        drawn = self._random.standard_t(2.5, size) / math.sqrt(5)
        return np.where(drawn > 0, drawn * math.sqrt(0.4), drawn * math.sqrt(1.6))


def drawn_worlds(kind: str, prompts: int, replays: int) -> Iterator[World]:
    to_confirm = round(CONFIRM_SHARE * prompts)
    to_search = prompts - to_confirm
    for seed in range(replays):
        random = np.random.default_rng([7, seed])
        optimum, truth = KINDS[kind](random)
        noise = Noise(random, optimum, heavy=kind == "heavy-tails")
        yield World(
            alphas=LATTICE,
            choices=ALPHAS,
            truth=truth,
            known=truth,
            preset=fitting(LATTICE, truth),
            search=truth[:, None] + noise.shared(to_search),
            tokens=np.ones((len(LATTICE), to_search)),
            alone=truth[:, None] + random.standard_normal((len(LATTICE), to_search)),
            confirm=truth[:, None] + noise.fresh(to_confirm),
            confirm_tokens=np.ones((len(LATTICE), to_confirm)),
            fluent=tuple(range(len(LATTICE))),
        )
