"""MT-Bench's scores in words: two tables, and what was left out."""

from collections.abc import Mapping

from llm_expo.evaluation.mt_bench.scores import TOTALS, Compared, ModelScores, Score
from llm_expo.stats import Interval

_NAMED = 5


def totals(compared: Compared) -> list[tuple[str, ...]]:
    """A row for each model and each difference; the first row has the headings."""
    return [
        ("model", *TOTALS),
        *((each.model, *_cells(each.totals)) for each in compared.models),
        *((f"{each.model} - {each.reference}", *_cells(each.totals)) for each in compared.differences),
    ]


def categories(compared: Compared) -> list[tuple[str, ...]]:
    """The same by category."""
    return [
        ("model", *compared.models[0].categories),
        *((each.model, *_cells(each.categories)) for each in compared.models),
        *((f"{each.model} - {each.reference}", *_cells(each.categories)) for each in compared.differences),
    ]


def lines(compared: Compared) -> list[str]:
    """Who judged, the average's differences with their intervals, and what to know of the ratings."""
    told = [f"judged by {compared.judge}, 1 to 10; ± is one standard error, over questions, differences paired"]
    for each in compared.differences:
        average = each.totals["average"]
        if average is not None:
            told.append(
                f"{each.model} - {each.reference}: average {_signed(average)} (95 % {average.low:+.2f} to "
                f"{average.high:+.2f}, {average.n} questions)"
            )
    for model in compared.models:
        told += _left_out(model)
    return told


def _left_out(model: ModelScores) -> list[str]:
    told = []
    if model.unrated:
        named = [f"turn {turn} of question {question}" for question, turn in model.unrated[:_NAMED]]
        more = ["..."] if len(model.unrated) > _NAMED else []
        told.append(
            f"{model.model}: {len(model.unrated)} of {model.judgements} judgements hold no rating and are left out: "
            + ", ".join([*named, *more])
        )
    if model.outside:
        told.append(f"{model.model}: {model.outside} ratings lie outside 1 to 10, and count as they are")
    return told


def _cells(figures: Mapping[str, Score | None] | Mapping[str, Interval | None]) -> list[str]:
    return [_cell(each) for each in figures.values()]


def _cell(figure: Score | Interval | None) -> str:
    match figure:
        case None:
            return "–"
        case Interval():
            return _signed(figure)
        case Score(se=None):
            return f"{figure.mean:.2f}"
        case Score():
            return f"{figure.mean:.2f} ± {figure.se:.2f}"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.2f} ± {interval.se:.2f}"
