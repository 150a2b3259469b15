"""The tax in words: a row for each model, a column for each task, and what stands out."""

from collections.abc import Sequence

from llm_expo.evaluation.lm_eval.tax import Cell

HOW_TO_READ = (
    "Points, after - before, ± a standard error that takes the two models' answers for independent, which is on the "
    "safe side. * p < 0.05 by itself; ** also among all cells of this table (Holm)."
)


def table(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """The head (model, tasks), then a row for each model; a task that a model lacks is a dash."""
    tasks = list(dict.fromkeys(each.task for each in cells))
    models = list(dict.fromkeys((each.model, each.reference) for each in cells))
    found = {(each.model, each.reference, each.task): each for each in cells}
    rows = [("model", *tasks)]
    for model, reference in models:
        rows.append((model, *(_cell(found.get((model, reference, task))) for task in tasks)))
    return rows


def standing_out(cells: Sequence[Cell]) -> list[str]:
    """A line for each significant cell, and how many lie within noise."""
    told = [
        f"{each.model}, {each.task}: {each.before:.1f} → {each.after:.1f}, {each.difference:+.1f} ± {each.se:.1f} "
        f"points (p = {each.p:.2g}): {'a tax' if each.difference < 0 else 'a gain'}"
        for each in cells
        if each.significant
    ]
    beyond = sum(each.p is not None and each.p < 0.05 for each in cells)
    untold = sum(each.p is None for each in cells)
    noise = f"{len(cells) - beyond - untold} of {len(cells)} cells lie within noise (p >= 0.05)"
    return [*told, noise + (f"; {untold} have no standard error" if untold else "")]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.se is None or cell.p is None:
        return f"{cell.difference:+.1f}"
    mark = "**" if cell.significant else "*" if cell.p < 0.05 else ""
    return f"{cell.difference:+.1f} ± {cell.se:.1f}{mark}"
