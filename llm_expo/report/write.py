"""A report's files: report.json and report.md in the study, and the card beside the model."""

import json
from pathlib import Path

from llm_expo.errors import OutputError
from llm_expo.report.page import PLANE, as_markdown, model_card
from llm_expo.report.plane import draw
from llm_expo.report.record import as_json
from llm_expo.search.outcome import Outcome


def write_report(outcome: Outcome) -> Path:
    """Write the files, each whole or not at all, and return the page's path."""
    page = outcome.study / "report.md"
    _replace(outcome.study / "report.json", json.dumps(as_json(outcome), indent=2, ensure_ascii=False) + "\n")
    if outcome.limit is not None and outcome.limit.priced:
        gains = {row.alpha: row.gain for row in outcome.search if row.gain is not None}
        _replace(outcome.study / PLANE, draw(outcome.limit, gains))
    _replace(page, as_markdown(outcome))
    if outcome.model is not None:
        _replace(outcome.model / "README.md", model_card(outcome))
    return page


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
