"""The leaderboard's plain figures. Pure: judgements in, numbers out."""

import math
import statistics
from dataclasses import dataclass

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.alpaca_eval.annotations import Annotations


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """Rates and their standard error in percent; `avg_length` of the model's outputs in characters.

    Names and meaning are the leaderboard file's. `without` judgements held no verdict and count nowhere.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int
    without: int


def win_rate(annotations: Annotations) -> WinRate:
    """Raises EvaluationError for fewer than two verdicts."""
    shares = [each.share for each in annotations.items if each.share is not None]
    n = len(shares)
    if n < 2:
        raise EvaluationError(f"{annotations.source}: a win rate needs two verdicts or more; it holds {n}")
    wins, losses = sum(each > 0.5 for each in shares), sum(each < 0.5 for each in shares)
    draws = n - wins - losses
    return WinRate(
        win_rate=100 * statistics.fmean(shares),
        standard_error=100 * statistics.stdev(shares) / math.sqrt(n),
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=n,
        discrete_win_rate=100 * (wins + draws / 2) / n,
        avg_length=int(statistics.fmean(len(each.output) for each in annotations.items)),
        without=len(annotations.items) - n,
    )
