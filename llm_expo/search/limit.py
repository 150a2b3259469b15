"""A price of alpha that the reward does not see, such as what a model loses on benchmarks, and how much it may be.

Knows not what is measured, nor how: that comes with the limit.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from llm_expo.search.choice import Rule, choose
from llm_expo.search.rounds import Seen
from llm_expo.stats import Interval


@dataclass(frozen=True, slots=True)
class Limit:
    """`price(alpha)` is what theta(alpha) loses against theta1, paired; above 0 is a loss.

    An alpha is within the limit where the upper bound of that is at most `most`.
    """

    name: str
    most: float
    price: Callable[[float], Interval]


@dataclass(frozen=True, slots=True)
class Priced:
    """A finalist's price; `within` says whether it may be chosen."""

    alpha: float
    price: Interval
    within: bool


def choose_within(seen: Seen, rule: Rule, fluent: Container[float], limit: Limit) -> tuple[float, tuple[Priced, ...]]:
    """The best choice within the limit, and all that were priced on the way to it, the best one first.

    Prices cost much, so one is asked for only where everything better has turned out too dear. 0 is theta1, which costs
    nothing.
    """
    priced: list[Priced] = []
    while (chosen := choose(seen, rule, fluent)) != 0:
        price = limit.price(chosen)
        priced.append(Priced(chosen, price, price.high <= limit.most))
        if priced[-1].within:
            break
        seen = replace(seen, collapsed={**seen.collapsed, chosen: "beyond the limit"})
    return chosen, tuple(priced)
