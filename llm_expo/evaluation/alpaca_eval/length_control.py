"""The length-controlled win rate (Dubois et al., arXiv 2404.04475): what the win rate would be at equal lengths.

A logistic regression of the preference on tanh(length difference), the instruction's difficulty and a constant, with an
L1 penalty chosen by five-fold cross-validation; the win rate is its mean prediction where the length difference is 0.
The published estimator is scikit-learn's LogisticRegressionCV with its liblinear solver. This is the same search
written out on LogisticRegression, since LogisticRegressionCV weighs held-out rows only after a switch that is global to
the process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llm_expo.errors import EvaluationError, MissingExtraError
from llm_expo.evaluation.alpaca_eval.annotations import Annotations
from llm_expo.evaluation.alpaca_eval.companion import Companion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Form = Literal["full", "minimal"]

_FOLDS, _SEED = 5, 123
_GAMED_WEIGHT = 0.2 / 2
"""Of a row of the two gamed baselines: lambda = 0.2 between them."""


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """In percent. `form`: full, AlpacaEval's length_controlled_v1, or minimal, its length_controlled_minimal.

    `coefficients` of the length term, of the difficulty (full form only) and of the constant; `strength` is the inverse
    of the penalty, C.
    """

    win_rate: float
    form: Form
    coefficients: tuple[float, ...]
    strength: float


@dataclass(frozen=True, slots=True)
class Rows:
    """What is regressed: for each judged instruction its length difference (baseline's - model's, in characters), its
    share (NaN: no verdict) and, in the full form, its difficulty; and the gamed baselines, ready to fit.

    Shapes: `length` and `share` [n], `difficulty` [n] or None; `gamed` [g, 3] (features) and `gamed_share` [g], with
    g = 0 in the minimal form.
    """

    length: "Floats"
    share: "Floats"
    difficulty: "Floats | None"
    gamed: "Floats"
    gamed_share: "Floats"

    @property
    def form(self) -> Form:
        return "minimal" if self.difficulty is None else "full"

    def take(self, places: Sequence[int] | Any) -> "Rows":
        """The rows at these places, in their order; the gamed baselines stay."""
        difficulty = None if self.difficulty is None else self.difficulty[places]
        return Rows(self.length[places], self.share[places], difficulty, self.gamed, self.gamed_share)


def length_controlled(annotations: Annotations, companion: Companion | None = None) -> LengthControlled:
    """The full form where there is a companion, else the minimal one, which leaves difficulty and gamed baselines out.

    A model that is its own baseline has 50 %, by definition.

    Raises:
        EvaluationError: fewer than ten verdicts; no spread of lengths; an index that the companion lacks.
        MissingExtraError: no scikit-learn.
    """
    if annotations.model == annotations.baseline:
        return LengthControlled(50.0, "minimal" if companion is None else "full", (), math.nan)
    rows = rows_of(annotations, companion)
    strength = choose_strength(rows)
    rate, coefficients = predict(rows, strength)
    return LengthControlled(rate, rows.form, coefficients, strength)


def rows_of(annotations: Annotations, companion: Companion | None) -> Rows:
    """Raises as `length_controlled`."""
    import numpy as np

    items = annotations.items
    verdicts = sum(each.share is not None for each in items)
    if verdicts < 2 * _FOLDS:
        raise EvaluationError(
            f"{annotations.source}: length control needs {2 * _FOLDS} verdicts or more; it holds {verdicts}"
        )
    length = np.array([len(each.baseline_output) - len(each.output) for each in items], dtype=np.float64)
    if np.ptp(length) == 0:
        raise EvaluationError(
            f"{annotations.source}: all outputs differ from the baseline's by {length[0]:g} characters; there is no "
            "length to control for"
        )
    share = np.array([math.nan if each.share is None else each.share for each in items])
    if companion is None:
        return Rows(length, share, None, np.empty((0, 2)), np.empty(0))
    if not annotations.indexed and len(items) != len(companion.difficulty):
        raise EvaluationError(
            f"{annotations.source}: {len(items)} annotations without `index`, and {companion.source} tells the "
            f"difficulty of {len(companion.difficulty)} instructions: give each annotation its `index` there"
        )
    for number, each in enumerate(items, start=1):
        if each.index not in companion.difficulty:
            raise EvaluationError(
                f"{annotations.source}, annotation {number}: {companion.source} has no instruction {each.index}"
            )
    difficulty = np.array([companion.difficulty[each.index] for each in items])
    gamed = np.array([(math.tanh(each.length), each.difficulty, 0.0) for each in companion.gamed])
    return Rows(length, share, difficulty, gamed, np.array([each.share for each in companion.gamed]))


def choose_strength(rows: Rows) -> float:
    """C of 10 from 1e-4 to 1e4 with the least cross-entropy on held-out rows, the mean over five folds."""
    import numpy as np

    try:
        from sklearn.model_selection import GroupKFold
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    features, share, weight = _training(rows)
    strengths = np.logspace(-4, 4, 10)
    losses = np.zeros((_FOLDS, len(strengths)))
    groups = np.arange(len(share))  # each row is one: as a win and as a loss it stays in one fold
    for fold, (fitted, held_out) in enumerate(GroupKFold(_FOLDS).split(features, groups=groups)):
        state = np.random.RandomState(_SEED)  # one stream over the strengths, as LogisticRegressionCV draws it
        for place, strength in enumerate(strengths):
            coefficients = _fit(features[fitted], share[fitted], weight[fitted], strength, state)
            p = np.clip(_logistic(features[held_out] @ coefficients), 1e-15, 1 - 1e-15)
            entropy = share[held_out] * np.log(p) + (1 - share[held_out]) * np.log(1 - p)
            losses[fold, place] = -(entropy * weight[held_out]).mean()
    return float(strengths[losses.mean(axis=0).argmin()])


def predict(rows: Rows, strength: float) -> tuple[float, tuple[float, ...]]:
    """The win rate at equal lengths, in percent, and the coefficients that it follows from, with C given."""
    import numpy as np

    features, share, weight = _training(rows)
    coefficients = _fit(features, share, weight, strength, _SEED)
    at_equal_lengths = _features(np.zeros_like(rows.length), rows.difficulty)
    rate = 100 * float(_logistic(at_equal_lengths @ coefficients).mean())
    return rate, tuple(float(each) for each in coefficients)


def _training(rows: Rows) -> "tuple[Floats, Floats, Floats]":
    """Features [m, 2 or 3], shares [m] and weights [m] of the rows with a verdict, the gamed baselines first."""
    import numpy as np

    spread = rows.length.std(ddof=1)
    features = _features(np.tanh(rows.length / spread), rows.difficulty)
    told = ~np.isnan(rows.share)
    weight = np.concatenate([np.full(len(rows.gamed_share), _GAMED_WEIGHT), np.ones(int(told.sum()))])
    return np.vstack([rows.gamed, features[told]]), np.concatenate([rows.gamed_share, rows.share[told]]), weight


def _features(length: "Floats", difficulty: "Floats | None") -> "Floats":
    """[n, 2 or 3]: length term, difficulty, and the constant, which is 1 for all but the gamed baselines."""
    import numpy as np

    constant = np.ones_like(length)
    return np.column_stack([length, constant] if difficulty is None else [length, difficulty, constant])


def _fit(features: "Floats", share: "Floats", weight: "Floats", strength: float, state: Any) -> "Floats":
    """Coefficients; a share of 0.7 is a win that weighs 0.7 and a loss that weighs 0.3."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=state, dual=False
    )
    labels = np.repeat([1, 0], len(share))
    weights = np.concatenate([share, 1 - share]) * np.tile(weight, 2)
    model.fit(np.vstack([features, features]), labels, sample_weight=weights)
    coefficients: Floats = model.coef_[0]
    return coefficients


def _logistic(x: "Floats") -> "Floats":
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0, -x)))
