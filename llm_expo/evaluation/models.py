"""The models that are evaluated side by side, by the names that figures and files have. Loads none of them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_expo.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Model:
    """`place` is a checkpoint's folder or hub id, or a file of what it answered elsewhere; `name` suits a file."""

    name: str
    place: str

    @property
    def is_file(self) -> bool:
        """Whether its answers were made elsewhere, and no model is needed."""
        return Path(self.place).is_file()


def read_models(given: Sequence[str]) -> list[Model]:
    """Models as the command line has them: PLACE or NAME=PLACE. The first one is the reference.

    Raises EvaluationError for a name that two have.
    """
    models = [_model(each) for each in given]
    for name, times in Counter(model.name for model in models).items():
        if times > 1:
            places = [model.place for model in models if model.name == name]
            raise EvaluationError(f"{' and '.join(places)} are both called {name}; write NAME={places[-1]} for one")
    return models


def _model(text: str) -> Model:
    name, sign, place = text.partition("=")
    if sign and place and "/" not in name and not Path(text).exists():
        return Model(name, place)
    last = Path(text).resolve().name if Path(text).exists() else text.replace("/", "__")
    return Model(re.sub(r"(\.jsonl?)?(\.gz)?$", "", last), text)
