"""The algorithms that `train` knows: facts, no training.

What an algorithm reads, whether it needs theta0's log-probabilities, its coefficients, where it is published, and who
computes its loss. TRL does where its form is the published one; otherwise it is one of losses.py.
docs/training.md has the same facts as a table, with the source of each default.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llm_expo.errors import RecipeError
from llm_expo.training import losses
from llm_expo.training.losses import Loss, Rewards
from llm_expo.training.recipe import AlgorithmName, Recipe


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm, with its default coefficients or with those that a recipe settled."""

    name: AlgorithmName
    data: Literal["pairs", "examples"]  # prompt, chosen and rejected; or a prompt and its reply
    reference: bool  # the loss needs log-probabilities under theta0
    coefficients: Mapping[str, float]  # where TRL computes the loss, these are TRL's own names
    source: str
    loss: Loss | None  # None: TRL's own is the published one
    rewards: Rewards | None = None  # the implicit ones that a loss of ours compares; None: it compares none


ALGORITHMS: Mapping[AlgorithmName, Algorithm] = {
    each.name: each
    for each in (
        Algorithm("dpo", "pairs", True, {"beta": 0.1}, "arXiv 2305.18290, Eq. 7", None),
        Algorithm("ipo", "pairs", True, {"tau": 0.1}, "arXiv 2310.12036, Eq. 17", losses.ipo, losses.ipo_rewards),
        Algorithm(
            "slic_hf", "pairs", False, {"delta": 1.0, "sft_weight": 0.1}, "arXiv 2305.10425, Eq. 4", losses.slic_hf
        ),
        Algorithm("rrhf", "pairs", False, {"sft_weight": 1.0}, "arXiv 2304.05302, Eqs. 1 to 5", losses.rrhf),
        Algorithm(
            "cpo",
            "pairs",
            False,
            {"beta": 0.1, "sft_weight": 1.0},
            "arXiv 2401.08417, section 3",
            losses.cpo,
            losses.cpo_rewards,
        ),
        Algorithm(
            "kto",
            "pairs",
            True,
            {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
            "arXiv 2402.01306, Eq. 8",
            None,
        ),
        Algorithm(
            "r_dpo",
            "pairs",
            True,
            {"beta": 0.1, "length_penalty": 0.05},
            "arXiv 2403.19159, Eq. 9",
            losses.r_dpo,
            losses.r_dpo_rewards,
        ),
        Algorithm(
            "simpo",
            "pairs",
            False,
            {"beta": 2.0, "gamma": 1.0},
            "arXiv 2405.14734, Eq. 6",
            losses.simpo,
            losses.simpo_rewards,
        ),
        Algorithm("orpo", "pairs", False, {"odds_ratio_weight": 0.1}, "arXiv 2403.07691, Eqs. 3 to 7", losses.orpo),
        Algorithm("sft", "examples", False, {}, "cross-entropy of the reply", None),
        Algorithm("reward", "pairs", False, {}, "Bradley-Terry; arXiv 2203.02155, Eq. 1", None),
    )
}

_ABOVE_ZERO = {"beta", "tau"}  # at 0 these losses are constant or infinite; the others weigh a term, or are a margin


def algorithm(recipe: Recipe) -> Algorithm:
    """The recipe's algorithm, with the recipe's coefficients in place of its defaults.

    Raises RecipeError, with every mistake at once: coefficients that the algorithm has not, with the nearest that it
    has, and impossible values.
    """
    known = ALGORITHMS[recipe.algorithm]
    wrong = []
    for name, value in recipe.coefficients.items():
        if name not in known.coefficients:
            near = difflib.get_close_matches(name, known.coefficients, n=1)
            has = f"{known.name} has {', '.join(known.coefficients) or 'none'}"
            wrong.append(f"unknown coefficient {name}; {f'did you mean {near[0]}? ' if near else ''}{has}")
        elif name in _ABOVE_ZERO and not value > 0:
            wrong.append(f"coefficient {name} is {value:g}; it has to be above 0")
        elif not value >= 0:
            wrong.append(f"coefficient {name} is {value:g}; it has to be 0 or more")
    if wrong:
        raise RecipeError("; ".join(wrong))
    return replace(known, coefficients={**known.coefficients, **recipe.coefficients})
