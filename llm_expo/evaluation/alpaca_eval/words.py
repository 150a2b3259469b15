"""AlpacaEval's figures in words: a table, and a line for each difference."""

from llm_expo.evaluation.alpaca_eval.comparison import Compared
from llm_expo.evaluation.alpaca_eval.length_control import Form
from llm_expo.stats import Interval

COLUMNS = ("model", "win rate", "LC win rate", "wins / draws / losses", "no verdict", "characters")
"""Headings of `table`; rates in percent ± a standard error."""

FORMS: dict[Form, str] = {
    "full": "LC win rate: the full form (length_controlled_v1), with the difficulties and gamed baselines given",
    "minimal": "LC win rate: the minimal form (length_controlled_minimal), without difficulties and gamed baselines: "
    "its figures are NOT the leaderboard's, and may lie many points off them",
}


def table(compared: Compared) -> list[tuple[str, ...]]:
    """A row of texts for each model, under `COLUMNS`."""
    return [
        (
            each.model,
            f"{each.plain.win_rate:.2f} ± {each.plain.standard_error:.2f}",
            f"{each.controlled.win_rate:.2f} ± {each.controlled_se:.2f}",
            f"{each.plain.n_wins} / {each.plain.n_draws} / {each.plain.n_wins_base}",
            str(each.plain.without),
            str(each.plain.avg_length),
        )
        for each in compared.models
    ]


def lines(compared: Compared) -> list[str]:
    """The form, each model whose LC win rate says nothing, and each difference from the reference."""
    told = [FORMS[compared.models[0].controlled.form]]
    told += [
        f"{each.model}: its LC win rate of 50 was not measured: the penalty that predicts best leaves nothing of the "
        "judgements, so they are too few, or follow nothing"
        for each in compared.models
        if each.controlled.coefficients and not any(each.controlled.coefficients)
    ]
    for each in compared.differences:
        told.append(
            f"{each.model} - {each.reference}: win rate {_interval(each.win_rate)}, "
            f"LC win rate {_interval(each.length_controlled)}"
        )
    return told


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.2f} ± {interval.se:.2f} (95 % {interval.low:+.2f} to {interval.high:+.2f})"
