"""A Python function as scorer: `function:package.module:name`."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llm_expo.errors import ExpoError, ScorerError
from llm_expo.scoring.scorer import Conversation, Progress, unwatched

ScoreFunction = Callable[[list[Conversation]], Sequence[float]]


class FunctionScorer:
    """Calls a function that maps a list of conversations to as many numbers."""

    def __init__(self, function: ScoreFunction, name: str | None = None) -> None:
        self.name = name or f"function:{function.__module__}:{function.__qualname__}"
        self._function = function

    def score(self, conversations: Sequence[Conversation], _: Progress = unwatched) -> list[float]:
        try:
            returned = self._function(list(conversations))
            values = list(returned)
            if isinstance(returned, str | Mapping) or any(isinstance(value, str) for value in values):
                raise ScorerError(f"{self.name}: returned a {type(returned).__name__}, not a sequence of numbers")
            return [float(value) for value in values]
        except ExpoError:
            raise
        except (Exception, SystemExit) as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f" ({where.tb_frame.f_code.co_filename}, line {where.tb_lineno})" if where else ""
            raise ScorerError(f"{self.name}: {type(error).__name__}: {error}{place}") from error


def load_function(path: str) -> FunctionScorer:
    """The scorer of `package.module:name`; modules in the working directory are found as well."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ScorerError(f"function:{path}: write function:package.module:name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end: a file of the user's never hides an installed package
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (importing runs the user's code)
        raise ScorerError(f"function:{path}: cannot be imported: {type(error).__name__}: {error}") from None
    function = getattr(module, name, None)
    if function is None:
        raise ScorerError(f"function:{path}: the module {module_name} has no {name}")
    if not callable(function):
        raise ScorerError(f"function:{path}: is not a function")
    return FunctionScorer(function, f"function:{path}")
