"""The pairs of the zoo: by which name a table knows them, and where a theta1 lies once it is made."""

from pathlib import Path

THETA0 = {"positivity": "theta0", "long-words": "theta0-long-words"}
"""By objective. Not a pair: alpha -1 of all of them."""

STEPS = 30
SHARES = (10, 20, 40, 100)
CONTROLLED = "dpo-0-40"
"""The pair whose difference the controls are made of."""
REPEATED = "dpo-0-40"
"""The pair of which a part is measured a second time, with another seed."""

_TRAINED = {
    **{f"dpo-{seed}-{share}": (f"dpo-{seed}", share) for seed in (0, 1) for share in SHARES},
    "over-trained": ("over-trained", 100),
    "length-biased": ("length-biased", 100),
    "simpo": ("simpo", 100),
    **{f"long-words-{share}": ("long-words", share) for share in (40, 100)},
}
CONTROLS = ("noise", "reversed")
PAIRS = (
    *("dpo-0-40", "dpo-0-100", "noise", "dpo-0-20", "dpo-1-40", "simpo", "dpo-1-100", "dpo-0-10", "reversed"),
    *("dpo-1-20", "length-biased", "dpo-1-10", "over-trained", "long-words-40", "long-words-100"),
)
"""The most telling first: so they are trained and measured."""


def recipe_of(pair: str) -> str | None:
    """The recipe that makes a pair's theta1; None for a control."""
    return _TRAINED[pair][0] if pair in _TRAINED else None


def objective_of(pair: str) -> str:
    """By which a pair, or theta0, was trained and is measured."""
    return "long-words" if "long-words" in pair else "positivity"


def theta1_of(folder: Path, pair: str) -> Path:
    if pair in THETA0.values():
        return folder / "theta1"  # the demo's; any will do, since theta0 is what is asked
    if pair in CONTROLS:
        return folder / "controls" / pair
    recipe, share = _TRAINED[pair]
    run = folder / "runs" / recipe
    return run / "model" if share == 100 else run / f"step-{round(STEPS * share / 100)}"
