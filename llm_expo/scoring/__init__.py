"""Completions to rewards. Knows conversations and nothing of weights, alphas or studies."""

from llm_expo.scoring.file import FileScorer
from llm_expo.scoring.function import FunctionScorer
from llm_expo.scoring.scorer import Comparer, Conversation, Recording, Resting, Scorer, rewards
from llm_expo.scoring.spec import scorer_from, scorers_from

__all__ = [
    "Comparer",
    "Conversation",
    "FileScorer",
    "FunctionScorer",
    "Recording",
    "Resting",
    "Scorer",
    "rewards",
    "scorer_from",
    "scorers_from",
]
