"""What a model folder says of its own origin, and whether that tells that theta0 and theta1 were swapped.

Three records are read: the card (README.md, `base_model`), llm_expo.json, and in config.json the name of the model that
transformers had loaded when it saved this one (`_name_or_path`). All are hints: written by hand, copied along, out of
date. What cannot be read says nothing. Knows nothing of tensors.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from llm_expo.checkpoints.files import json_or_nothing, read_bytes, shown
from llm_expo.checkpoints.hub import CARD_NAME, Located
from llm_expo.checkpoints.layout import CONFIG_NAME
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import CheckpointError

# As huggingface_hub finds it.
_FRONT_MATTER = re.compile(r"\s*---[ \t]*(\r\n|\r|\n)(?P<yaml>.*?)(\r\n|\r|\n)---[ \t]*(\r\n|\n|$)", re.DOTALL)
# Folder names that many models have, so that two of them prove nothing.
_COMMON = re.compile(r"(model|out|output|final|best|last|merged|checkpoint|ckpt|step|epoch|hf)s?[\W_]*\d*")


def base_models(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, model): which models this one was made from, hub ids and paths, and which file beside it says so."""
    stated = _card(folder / CARD_NAME).get("base_model")
    for base in stated if isinstance(stated, list) else [stated]:
        if isinstance(base, str) and base.strip():
            yield CARD_NAME, base.strip()
    made = json_or_nothing(folder / PROVENANCE_NAME)
    for side in (made.get("initial"), made.get("aligned")):
        for key in ("repo", "path"):
            if isinstance(side, dict) and isinstance(side.get(key), str) and side[key]:
                yield PROVENANCE_NAME, side[key]
    loaded = json_or_nothing(folder / CONFIG_NAME).get("_name_or_path")
    if isinstance(loaded, str) and loaded:
        yield CONFIG_NAME, loaded


def swapped(initial: Located, aligned: Located) -> str | None:
    """The evidence, in one line, that `initial` (theta0) was made from `aligned` (theta1); None if there is none.

    Evidence is a record of theta0 that names theta1 and not theta0 itself, unless theta1's records name theta0 too.
    """
    if any(_names(base, initial) and not _names(base, aligned) for _, base in base_models(aligned.folder)):
        return None
    for file, base in base_models(initial.folder):
        if _names(base, aligned) and not _names(base, initial):
            return (
                f"{shown(initial.folder / file)} of theta0 says that it was made from {shown(base)}, and that is "
                f"theta1 ({shown(aligned.repo or aligned.folder)}): they look swapped"
            )
    return None


def _card(path: Path) -> dict[str, object]:
    """The front matter of a model card; empty if it has none that can be read."""
    try:
        front = _FRONT_MATTER.match(read_bytes(path).decode("utf-8-sig"))
    except (CheckpointError, UnicodeDecodeError):
        return {}
    if front is None or "base_model" not in front["yaml"]:
        return {}
    # huggingface_hub reads cards, too, but loading it takes `apply` longer than a gigabyte of weights.
    import yaml

    try:
        content = yaml.load(front["yaml"], getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception:  # noqa: BLE001 (YAML that anybody wrote, for people to read)
        return {}
    return content if isinstance(content, dict) else {}


def _names(base: str, model: Located) -> bool:
    """Whether `base`, a hub id or a path, is this model."""
    if model.repo is not None and base.partition("@")[0].casefold() == model.repo.casefold():
        return True
    path = Path(base)
    if path.is_absolute():
        return path.exists() and path.samefile(model.folder)
    # Of a model of the hub the whole id is known. Of a folder only its name is, which must be one that tells.
    name = model.folder.absolute().name.casefold()
    return model.repo is None and path.name.casefold() == name and not _COMMON.fullmatch(name)
