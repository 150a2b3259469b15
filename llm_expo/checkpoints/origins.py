"""Which theta0 a model was made from, by the record that was written as it was made, and that theta0 opened.

Three records are read, in this order: difference.json (difference.py), the llm_expo.json of a training
(training/record.py), and an adapter's settings (`base_model_name_or_path`). A model card's `base_model` is none of
them: people write it, and it often names the pre-trained model that the family comes from, as zephyr-7b-beta's does.
From the wrong theta0 the direction is wrong without anything to be seen. Nor is the llm_expo.json that `apply` writes:
theta(alpha) was made from two checkpoints, and which of them is meant is the user's to say. Knows nothing of alpha.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import json_or_nothing, shown
from llm_expo.checkpoints.fingerprint import fingerprint
from llm_expo.checkpoints.hub import Located
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, DIFFERENCE_NAME
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME
from llm_expo.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Origin:
    """theta0, as a record beside theta1 names it."""

    said_by: Path  # the record
    places: tuple[Path | str, ...]  # where it may be: a folder, ORG/NAME@COMMIT of the hub
    fingerprint: str | None  # None where the record has none


def initial_of(located: Located) -> Origin | None:
    """What the records beside theta1 say of theta0; None where there is none, or none that can be read."""
    folder = located.folder
    for name, wanted in ((DIFFERENCE_NAME, "initial"), (PROVENANCE_NAME, "training")):
        record = json_or_nothing(folder / name)
        if wanted in record and (origin := origin_from(record.get("initial"), folder / name)) is not None:
            return origin
    settings = json_or_nothing(folder / ADAPTER_CONFIG_NAME)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        return None
    # As PEFT takes it: a path is seen from where one stands.
    on_hub = isinstance(revision, str) and not os.path.lexists(base)
    return Origin(folder / ADAPTER_CONFIG_NAME, (f"{base}@{revision}" if on_hub else base,), None)


def origin_from(record: object, said_by: Path) -> Origin | None:
    """What a record's description of theta0 (`described`) says; None if that is nothing.

    A relative path is seen from the folder of `said_by`.
    """
    if not isinstance(record, Mapping):
        return None
    path, repo, commit, name = (record.get(key) for key in ("path", "repo", "commit", "fingerprint"))
    places: list[Path | str] = []
    if isinstance(path, str) and path:
        places.append(said_by.parent / path)
    if isinstance(repo, str) and isinstance(commit, str):
        places.append(f"{repo}@{commit}")
    return Origin(said_by, tuple(places), name if isinstance(name, str) else None) if places else None


def described(checkpoint: Checkpoint) -> dict[str, object]:
    """theta0 for a record: its place and its fingerprint. Raises CheckpointError for a file that cannot be read."""
    return {**place(checkpoint.located), "fingerprint": fingerprint(checkpoint)}


def place(located: Located) -> dict[str, object]:
    """Where a checkpoint lies: the path as given, since the hub cache's links mean something, and its commit."""
    known = {key: value for key, value in asdict(located).items() if key != "folder" and value is not None}
    return {"path": os.path.abspath(located.folder), **known}  # noqa: PTH100


def open_initial(origin: Origin, given: Checkpoint | None = None, *, allow_bin: bool = False) -> Checkpoint:
    """theta0: `given` if that is the one which the record means, else what lies where the record says.

    Raises CheckpointError, which names all that was tried, where none of it can be read and has the fingerprint.
    """
    tried = []
    if given is not None:
        if (found := fingerprint(given)) == origin.fingerprint:
            return given
        tried.append(f"{shown(given.path)} has {found}")
    for where in origin.places:
        if given is not None and isinstance(where, Path) and where.exists() and where.samefile(given.path):
            continue
        if isinstance(where, Path) and where != origin.places[-1] and not where.exists():
            continue  # a path of another machine, where there is a hub id
        try:
            checkpoint = Checkpoint.open(where, allow_bin=allow_bin)
        except CheckpointError as error:
            tried.append(str(error))
            continue
        if (found := fingerprint(checkpoint)) == origin.fingerprint or origin.fingerprint is None:
            return checkpoint
        tried.append(f"{shown(where)} has {found}, so that it has changed or is another")
    which = "a theta0" if origin.fingerprint is None else f"the theta0 with the fingerprint {shown(origin.fingerprint)}"
    raise CheckpointError(
        f"{shown(origin.said_by)}: theta1 was made from {which}, and that is not here: {'; '.join(tried)}; give the "
        "right theta0, before theta1"
    )
