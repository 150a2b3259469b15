"""The tax in words: a row for each model, a column for each task, and what stands out."""

from collections.abc import Sequence

from llm_expo.evaluation.lm_eval.results import Results, Score
from llm_expo.evaluation.lm_eval.tax import LEVEL, Cell

_STARS = "* p < 0.05 by itself; ** also among all cells of this table (Holm)."

HOW_TO_READ = (
    "Points, after - before, ± a standard error that takes the two models' answers for independent, which is on the "
    f"safe side. {_STARS}"
)
HOW_TO_READ_PAIRED = (
    "Points, after - before, item by item, ± standard error; p by McNemar's exact test where an item is right or "
    f"wrong, by the paired t test where it is more or less right, by the normal distribution for MMLU's mean. {_STARS}"
)
HOW_TO_READ_GOLD = (
    "The right answer's log-likelihood, nats an item, after - before, ± standard error; p by the paired t test. "
    f"{_STARS}"
)
FAST = (
    "tinyBenchmarks' scores are its estimates of the whole benchmarks (gpIRT); differences are those of its items "
    "themselves."
)


def score_table(results: Sequence[Results]) -> list[tuple[str, ...]]:
    """The head (model, tasks), then a row for each model, in percent."""
    tasks = list(dict.fromkeys(task for each in results for task in each.scores))
    return [("model", *tasks), *((each.model, *(_score(each.scores.get(task)) for task in tasks)) for each in results)]


def asked_by(chat: bool) -> str:
    """Which template the tasks were put by."""
    if chat:
        return "Asked through each model's chat template; leaderboards ask by lm-eval's plain text."
    return "Asked by lm-eval's plain text, as leaderboards do, not by the models' chat templates (--chat-template)."


def table(cells: Sequence[Cell], digits: int = 1) -> list[tuple[str, ...]]:
    """The head (model, tasks), then a row for each model; a task that a model lacks is a dash."""
    tasks = list(dict.fromkeys(each.task for each in cells))
    models = list(dict.fromkeys((each.model, each.reference) for each in cells))
    found = {(each.model, each.reference, each.task): each for each in cells}
    rows = [("model", *tasks)]
    for model, reference in models:
        rows.append((model, *(_cell(found.get((model, reference, task)), digits) for task in tasks)))
    return rows


def standing_out(cells: Sequence[Cell]) -> list[str]:
    """A line for each significant cell, and how many lie within noise."""
    told = [
        f"{each.model}, {each.task}: {each.before:.1f} → {each.after:.1f}, {each.difference:+.1f} ± {each.se:.1f} "
        f"points (p = {each.p:.2g}): {'a tax' if each.difference < 0 else 'a gain'}"
        for each in cells
        if each.significant
    ]
    beyond = sum(each.p is not None and each.p < LEVEL for each in cells)
    untold = sum(each.p is None for each in cells)
    noise = f"{len(cells) - beyond - untold} of {len(cells)} cells lie within noise (p >= 0.05)"
    return [*told, noise + (f"; {untold} have no standard error" if untold else "")]


def _score(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.1f}" if score.se is None else f"{score.value:.1f} ± {score.se:.1f}"


def _cell(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return "–"
    if cell.se is None or cell.p is None:
        return f"{cell.difference:+.{digits}f}"
    mark = "**" if cell.significant else "*" if cell.p < LEVEL else ""
    return f"{cell.difference:+.{digits}f} ± {cell.se:.{digits}f}{mark}"
