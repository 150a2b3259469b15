"""Completions to rewards. Knows conversations and nothing of weights, alphas or studies."""

from llm_expo.scoring.function import FunctionScorer
from llm_expo.scoring.scorer import Conversation, Scorer, rewards
from llm_expo.scoring.spec import scorer_from

__all__ = ["Conversation", "FunctionScorer", "Scorer", "rewards", "scorer_from"]
