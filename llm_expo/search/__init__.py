"""The only place where theta, text and reward meet: which alpha, and whether it is better."""

from llm_expo.search.outcome import Outcome
from llm_expo.search.run import search
from llm_expo.search.strategies import PRESETS, Grid, Paper, Strategy
from llm_expo.search.study import Study
from llm_expo.search.verdict import Verdict

__all__ = ["PRESETS", "Grid", "Outcome", "Paper", "Strategy", "Study", "Verdict", "search"]
