"""A finished search to something to read. Knows outcomes; decides nothing."""

from llm_expo.report.page import as_markdown, model_card
from llm_expo.report.record import as_json
from llm_expo.report.write import write_report

__all__ = ["as_json", "as_markdown", "model_card", "write_report"]
