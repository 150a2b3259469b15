"""An outcome as a Markdown page, and as the card of the model that was written."""

import re
from collections.abc import Sequence

from llm_expo.report import words
from llm_expo.search.outcome import Outcome, Row

PLANE = "plane.svg"
"""The picture beside the page where the choice was limited."""


def as_markdown(outcome: Outcome) -> str:
    """The report. What models and users wrote stands in fences that it cannot close."""
    headline, *rest = words.decision(outcome)
    parts = [
        "# Model extrapolation: report",
        f"**{headline}**",
        *rest,
        f"theta0: {_plain(str(outcome.theta0))}; theta1: {_plain(str(outcome.theta1))}.",
        "## Search",
        f"Up to {max(row.prompts for row in outcome.search)} prompts, one reply each. The choice's own figure here is "
        "flattered by having been chosen.",
        _table(outcome.search),
        *[_plain(said) for said in words.collapses(outcome.search)],
        "Its rounds:",
        _list([_plain(why) for why in words.rounds(outcome)]),
        *_prices(outcome),
        "## Confirmation",
        f"{outcome.confirm[0].prompts} other prompts, fresh noise.",
        _table(outcome.confirm),
        words.HOW_TO_READ,
        "## Replies",
        "Prompts at even steps from the longest to the shortest, whatever was replied.",
    ]
    for example in outcome.examples:
        parts += [f"### {_plain(example.prompt.id)}", _fenced(example.prompt.messages[-1]["content"])]
        for alpha, text in example.replies.items():
            parts += [f"alpha {words.name(alpha)}:", _fenced(text)]
    parts += ["## Cost", _list(words.costs(outcome))]
    parts += ["## Settings", _list([f"{name}: {_plain(str(value))}" for name, value in outcome.settings.items()])]
    return "\n\n".join(parts) + "\n"


def _prices(outcome: Outcome) -> list[str]:
    if outcome.limit is None:
        return []
    pictured = [f"![reward against price]({PLANE})"] if outcome.limit.priced else []
    return ["## Price", _list([_plain(said) for said in words.prices(outcome)]), *pictured]


def model_card(outcome: Outcome) -> str:
    """README.md of the model folder."""
    return (
        "\n\n".join(
            [
                "---\nlibrary_name: transformers\ntags:\n- model-extrapolation\n- expo\n---",
                f"# theta({outcome.choice:g})",
                f"theta1 + {outcome.choice:g} * (theta1 - theta0), made without training by model extrapolation "
                "(ExPO, arXiv 2404.16792) with llm-expo. The two checkpoints are named in llm_expo.json; the licence "
                "and the limits of theta1 hold for this model as well.",
                f"**{words.decision(outcome)[0]}**",
                _table(outcome.confirm),
                words.HOW_TO_READ,
            ]
        )
        + "\n"
    )


def _table(rows: Sequence[Row]) -> str:
    lines = [words.COLUMNS, ("---:",) * len(words.COLUMNS), *words.table(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _plain(text: str) -> str:
    """One line with nothing in it that Markdown or HTML would take for markup."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~])", r"\\\1", " ".join(text.split()))
