"""The alignment tax item by item: a model against its reference on the very same items.

What both answer alike cancels, so the standard error is smaller than that of two reported scores (tax.py), and the
test is exact where an item is right or wrong. Reads what kept.py keeps, and knows no lm-eval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.lm_eval.kept import GOLD, Record, read_samples
from llm_expo.evaluation.lm_eval.results import columns, score_key
from llm_expo.evaluation.lm_eval.tax import Cell, Test, holm, two_sided
from llm_expo.stats import paired_difference


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a task: what names it and its prompt, its score in points, the right answer's log-likelihood."""

    document: str
    prompt: str
    score: float
    gold: float | None


@dataclass(frozen=True, slots=True)
class Answered:
    """All items of a model, by task."""

    model: str
    chat: bool
    items: Mapping[str, Sequence[Item]]


def read_answered(folder: Path, record: Record, tasks: Sequence[str]) -> Answered:
    """The items of a model's tasks. Raises EvaluationError, naming file and item."""
    items = {}
    for task in tasks:
        key = score_key(task, record["results"][task])
        metric, _, filtered = (key or "").partition(",")
        items[task] = [
            Item(f"{each['doc_hash']} {each['target_hash']}", each["prompt_hash"], 100 * each[metric], each.get(GOLD))
            for each in read_samples(folder, task)
            if each["filter"] == (filtered or "none")
        ]
    return Answered(record["model_name"], record["fewshot_as_multiturn"], items)


def score_cells(answered: Sequence[Answered]) -> list[Cell]:
    """The difference of scores in points: each model against the first one, a cell for each column of the table.

    Right and wrong are compared by McNemar's exact test (1947): of the items on which the two differ, each is as likely
    to get one right as the other. Scores in between by the paired t test. MMLU is the plain mean of its subjects, so
    its error is that of a mean of independent ones.

    Raises EvaluationError where the two did not answer the same items.
    """
    reference, *models = answered
    cells = []
    for model in models:
        for column, tasks in columns(model.items).items():
            pairs = [_paired(reference, model, task) for task in tasks]
            scores = [[(ours.score, theirs.score) for ours, theirs in each] for each in pairs]
            cells.append(_cell(model.model, reference.model, column, scores))
    return holm(cells)


def gold_cells(answered: Sequence[Answered]) -> list[Cell]:
    """The same of the right answer's log-likelihood, in nats an item, for the tasks that have choices.

    It moves before answers change, so it is the cheapest sign of a tax. Raises as `score_cells`.
    """
    reference, *models = answered
    cells = []
    for model in models:
        for column, tasks in columns(model.items).items():
            pairs = [_paired(reference, model, task) for task in tasks]
            golds = [[(x.gold, y.gold) for x, y in each if x.gold is not None and y.gold is not None] for each in pairs]
            if all(golds):
                cells.append(_cell(model.model, reference.model, column, golds))
    return holm(cells)


def _paired(reference: Answered, model: Answered, task: str) -> list[tuple[Item, Item]]:
    ours, theirs = reference.items[task], model.items[task]
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"{task}: {reference.model} has {len(ours)} items and {model.model} {len(theirs)}; take another --out"
        )
    pairs = list(zip(ours, theirs, strict=True))
    for number, (our, their) in enumerate(pairs):
        # Through chat templates two models may be asked the same in two ways.
        if our.document != their.document or (our.prompt != their.prompt and not model.chat):
            raise EvaluationError(
                f"{task}: item {number} is not the same for {reference.model} and {model.model}: the task or its data "
                "changed between the two runs; take another --out"
            )
    return pairs


def _cell(model: str, reference: str, column: str, parts: Sequence[Sequence[tuple[float, float]]]) -> Cell:
    """Of one task, or of several that count alike."""
    before, after = (math.fsum(_mean(part, side) for part in parts) / len(parts) for side in (0, 1))
    if min(map(len, parts)) < 2:
        return Cell(model, reference, column, before, after, None, None)
    intervals = [paired_difference([y for _, y in part], [x for x, _ in part]) for part in parts]
    se = math.hypot(*(each.se for each in intervals)) / len(parts)
    test: Test
    if len(parts) > 1:
        test, p = "paired normal", two_sided(after - before, se)
    elif {value for pair in parts[0] for value in pair} <= {0.0, 100.0}:
        test, p = "McNemar", _mcnemar(parts[0])
    else:
        test, p = "paired t", _student(after - before, se, len(parts[0]))
    return Cell(model, reference, column, before, after, se, p, test)


def _mean(part: Sequence[tuple[float, float]], side: int) -> float:
    return math.fsum(pair[side] for pair in part) / len(part)


def _mcnemar(pairs: Sequence[tuple[float, float]]) -> float:
    from scipy.stats import binomtest

    lost, won = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    return float(binomtest(min(lost, won), lost + won).pvalue) if lost + won else 1.0


def _student(difference: float, se: float, n: int) -> float:
    from scipy.stats import t

    if se == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * t.sf(abs(difference) / se, df=n - 1))
