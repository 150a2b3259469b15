"""A catalogue in words: the list, one pair with the command that reproduces it, and what it needs."""

import shlex
from collections.abc import Sequence

from llm_expo.catalogue.pairs import FIGURES, Gain, Pair

COLUMNS = ("pair", "training", "alpha", "reward", "win rate", "LC win rate", "MT-Bench")
"""Headings of `table`; results read theta1 → theta(alpha)."""


_DECIMALS = {"reward": 2, "win_rate": 1, "lc_win_rate": 1, "mt_bench": 2}  # as published


def table(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """A row of texts for each pair, under `COLUMNS`."""
    return [
        (pair.name, pair.training or "–", _alpha(pair), *(_gain(key, pair.results.get(key)) for key in FIGURES))
        for pair in pairs
    ]


def apply_command(pair: Pair) -> str:
    """The command that writes theta(alpha) of the pair; where no alpha was published, the one that looks for it."""
    checkpoints = f"{shlex.quote(pair.initial)} {shlex.quote(pair.aligned)}"
    if pair.alpha is None:
        return f"llm-expo search {checkpoints} --scorer reward-model:PATH_OR_ID --out STUDY"
    return f"llm-expo apply {checkpoints} --alpha {pair.alpha:g} --out {shlex.quote(f'{pair.name}-expo')}"


def describe(pair: Pair) -> list[tuple[str, str]]:
    """(what, in words), a line each."""
    lines = [("theta0", pair.initial), ("theta1", pair.aligned)]
    if pair.training:
        lines.append(("training", pair.training))
    lines.append(("alpha", _alpha(pair) + (f" ({pair.source})" if pair.source else "")))
    lines += [("result", f"{FIGURES[key]}: {_gain(key, gain)}") for key, gain in pair.results.items()]
    return [*lines, ("command", apply_command(pair)), *(("needs", need) for need in needs(pair))]


def needs(pair: Pair) -> list[str]:
    """What the pair takes: disk, memory, consent."""
    told = []
    if pair.billions is not None:
        size = 2 * pair.billions  # GB, at 16 bits a weight
        told.append(
            f"disk: about {3 * size:.0f} GB, {size:.0f} for each of theta0, theta1 and what is written (16 bits)"
        )
        told.append(
            f"memory: some 30 MB to write it; about {size:.0f} GB to run it, {2 * size:.0f} more to search alpha "
            "(none more with --low-memory)"
        )
    if pair.remote_code:
        told.append(
            "your consent: transformers lacks the architecture, so that running the model (search, evaluate) runs "
            "Python code from its repository: --trust-remote-code; apply and compare run none"
        )
    return told


def _alpha(pair: Pair) -> str:
    return "none published" if pair.alpha is None else f"{pair.alpha:g}"


def _gain(key: str, gain: Gain | None) -> str:
    if gain is None:
        return "–"
    figures = [gain.aligned] if gain.extrapolated is None else [gain.aligned, gain.extrapolated]
    return " → ".join(f"{figure:.{_DECIMALS[key]}f}" for figure in figures)
