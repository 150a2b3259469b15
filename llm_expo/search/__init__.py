"""The only place where theta, text and reward meet: which alpha, and whether it is better."""

from llm_expo.search.budget import Budget
from llm_expo.search.events import Event
from llm_expo.search.limit import Limit
from llm_expo.search.outcome import Outcome
from llm_expo.search.race import Race
from llm_expo.search.rounds import Round, Seen, Strategy
from llm_expo.search.run import search
from llm_expo.search.study import Study
from llm_expo.search.sweeps import PRESETS, Grid, Paper
from llm_expo.search.verdict import Verdict

__all__ = [
    "PRESETS",
    "Budget",
    "Event",
    "Grid",
    "Limit",
    "Outcome",
    "Paper",
    "Race",
    "Round",
    "Seen",
    "Strategy",
    "Study",
    "Verdict",
    "search",
]
