"""Which alpha to take to the confirmation, from all that a search has seen. Pure."""

from collections.abc import Container
from typing import Literal

from llm_expo.search.curve import fit, heights, standard_errors
from llm_expo.search.rounds import Seen, answered

Rule = Literal["best", "one-se", "fluent"]

DOUBT = 0.5
"""Theta1 is kept if nothing leads it by so many standard errors. Such a lead is hardly ever confirmed: without this, a
useless direction ships twice as often, and a good one no more often (bench/strategies --worlds)."""


def choose(seen: Seen, rule: Rule = "best", fluent: Container[float] = ()) -> float:
    """The choice among the alphas that were tried and have not collapsed; 0 is theta1, so no gain was found.

    Args:
        rule: `best` is the alpha of the highest reward by the curve through all of them (`llm_expo.search.curve`),
            which luck misleads less than the highest mean; `one-se` the one next to theta1 whose paired difference to
            that is within one standard error (Breiman et al. 1984, section 3.4.3); `fluent` the best of those in
            `fluent`, and of theta1.
        fluent: the alphas that the guard finds as fluent and diverse as theta1, as far as is stated there.
    """
    rewards = answered(seen)
    if rule == "fluent":
        rewards = {alpha: values for alpha, values in rewards.items() if alpha == 0 or alpha in fluent}
    curve = fit(rewards)
    height = heights(curve)
    places = sorted(range(len(curve.alphas)), key=lambda place: abs(curve.alphas[place]))
    best = max(places, key=lambda place: float(height[place]))
    error = standard_errors(curve, best)
    theta1 = curve.alphas.index(0.0)
    if height[theta1] >= height[best] - DOUBT * error[theta1]:
        return 0.0
    if rule != "one-se":
        return curve.alphas[best]
    return curve.alphas[next(place for place in places if height[place] >= height[best] - error[place])]
