"""Known pairs by name: where theta0 and theta1 lie, the alpha that was published, and what it gave.

Facts from a TOML file, the paper's or a user's own. Opens no checkpoint and asks no hub.
"""

from llm_expo.catalogue.pairs import PAPER, Pair, find, read_catalogue
from llm_expo.catalogue.words import COLUMNS, apply_command, describe, table

__all__ = ["COLUMNS", "PAPER", "Pair", "apply_command", "describe", "find", "read_catalogue", "table"]
