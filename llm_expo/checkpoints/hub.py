"""Models of the Hugging Face hub, written ORG/NAME or ORG/NAME@REVISION, become a folder on disk at one commit.

All of it goes through huggingface_hub, so that cache, token, offline mode, endpoint and proxy are what its users know.
The revision is pinned to a commit before any file is asked for, and what cannot be read (a quantised model, pickles) is
refused before its weights are fetched. Knows nothing of tensors.
"""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.checkpoints.files import parse_json, read_bytes, reason, shown
from llm_expo.checkpoints.layout import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_NAME,
    BIN_INDEX_NAME,
    CONFIG_NAME,
    DIFFERENCE_NAME,
    INDEX_NAME,
    difference_files,
    read_config,
    refuse_quantised,
    weights_begin,
    without_weights,
)
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME, is_side_file
from llm_expo.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

CARD_NAME = "README.md"

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^\s@]+))?", re.ASCII)
# Where the hub's cache keeps the files of a commit: models--ORG--NAME/snapshots/COMMIT.
_SNAPSHOT = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})")

_AGAIN = "run it again: files that arrived whole are kept"


@dataclass(frozen=True, slots=True)
class Located:
    """The folder of a checkpoint, and the commit of the hub that it is, where that is known."""

    folder: Path
    repo: str | None = None  # ORG/NAME
    revision: str | None = None  # as it was asked for: a branch, a tag, a commit
    commit: str | None = None  # 40 hexadecimal digits


def resolve(spec: str | os.PathLike[str], allow_bin: bool = False) -> Located:
    """The folder that `spec` means; a model of the hub is fetched unless the cache has it.

    spec: a folder, or ORG/NAME[@REVISION]. What exists on disk wins, and a PathLike is never a hub id. Of a model only
          what extrapolation needs is fetched: safetensors weights and the files that belong to them. A folder inside
          the hub's cache is recognised.
    allow_bin: fetch pytorch_model.bin where there are no safetensors.

    Raises CheckpointError, one line with the way out: neither a folder nor a model, private or gated, no such revision,
    no weights, quantised, offline and not in the cache, a connection that failed or broke.
    """
    text = os.fspath(spec)
    if os.path.lexists(text):
        return _on_disk(Path(text))
    asked = hub_id(text) if isinstance(spec, str) else None
    if asked is None:
        hint = "" if "/" in text else "; a model of the hub is written ORG/NAME or ORG/NAME@REVISION"
        raise CheckpointError(f"{shown(text)}: no such folder{hint}")
    return _on_hub(shown(text), *asked, allow_bin)


def hub_id(text: str) -> tuple[str, str | None] | None:
    """ORG/NAME and the revision of what is written as ORG/NAME[@REVISION]; None for anything else."""
    asked = _HUB_ID.fullmatch(text)
    if asked is None or ".." in text:  # which no branch may have, and the cache keeps branches as paths
        return None
    return asked["repo"], asked["revision"]


def _on_disk(folder: Path) -> Located:
    cached = _SNAPSHOT.fullmatch("/".join(folder.absolute().parts[-3:]))
    if cached is None:
        return Located(folder)
    return Located(folder, repo=cached["repo"].replace("--", "/"), commit=cached["commit"])


def _on_hub(spec: str, repo: str, revision: str | None, allow_bin: bool) -> Located:
    from huggingface_hub import HfApi, is_offline_mode

    # HTTPError is the base of all that its HTTP client raises, whichever client that is.
    from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]

    api = HfApi(library_name="llm-expo")
    try:
        # Told that it is offline, the library need not try and warn.
        pinned = api.resolve_revision(repo, revision=revision, local_files_only=is_offline_mode())
        small = [CONFIG_NAME, ADAPTER_CONFIG_NAME, DIFFERENCE_NAME, CARD_NAME, INDEX_NAME]
        small += [BIN_INDEX_NAME] if allow_bin else []
        folder = Path(api.snapshot_download(repo, revision=pinned, allow_patterns=small))
        wanted = _wanted(spec, folder, _names(repo, pinned, folder), allow_bin)
        api.snapshot_download(repo, revision=pinned, allow_patterns=[glob.escape(name) for name in wanted])
    except (HTTPError, OSError, ValueError, RuntimeError, RevisionResolutionError) as error:
        raise _explained(spec, repo, revision, api.endpoint, error) from error
    # Only an index can name what is not there: one that lies, or one in a cache that has no list of the commit's files.
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise CheckpointError(f"{spec}: its index names {shown(missing[0])}, which is not in {folder}{_hint()}")
    return Located(folder, repo, revision, pinned.resolved)


def _names(repo: str, pinned: "ResolvedRevision", folder: Path) -> list[str]:
    """The files of the commit; of a cache that has no list of them, the files that it holds."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(repo, revision=pinned)]
    except CachedRepoTreeNotFoundError:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]


def _wanted(spec: str, folder: Path, names: list[str], allow_bin: bool) -> list[str]:
    """The files to fetch, out of all `names` of the commit; `folder` has its configs and indexes by now."""
    here = {name for name in names if "/" not in name}
    beside = [name for name in names if is_side_file(name) or name in (CARD_NAME, PROVENANCE_NAME)]
    if ADAPTER_CONFIG_NAME in here:
        return beside + sorted({ADAPTER_NAME} & here)
    if CONFIG_NAME in here:
        refuse_quantised(folder, read_config(folder))
    if DIFFERENCE_NAME in here:
        where = folder / DIFFERENCE_NAME
        record = parse_json(read_bytes(where), f"{shown(where)}: the file")
        return [*beside, DIFFERENCE_NAME, *difference_files(record, where)]
    begin = weights_begin(here, allow_bin)
    if begin is None:
        raise CheckpointError(f"{spec}: {without_weights(here)}{_hint()}")
    if begin in (INDEX_NAME, BIN_INDEX_NAME):
        return [*beside, begin, *_shards(folder / begin)]
    return [*beside, begin]


def _shards(index: Path) -> list[str]:
    """The files that an index names, as far as they are names; opening the checkpoint holds it to account."""
    weight_map = parse_json(read_bytes(index), f"{shown(index)}: the file").get("weight_map")
    files = weight_map.values() if isinstance(weight_map, dict) else ()
    return sorted({file for file in files if isinstance(file, str) and "/" not in file})


def _explained(spec: str, repo: str, revision: str | None, endpoint: str, error: Exception) -> CheckpointError:
    from huggingface_hub import constants, errors

    # What is behind "neither on the hub nor in the cache".
    if isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    else:
        cause = error
    if isinstance(cause, errors.GatedRepoError):
        what = f"is gated: ask for access at {endpoint}/{repo}, and log in with `hf auth login` or HF_TOKEN"
    elif isinstance(cause, errors.RepositoryNotFoundError):
        what = (
            f"neither a folder nor a model on {endpoint}; check the name, or, if it is private, log in with "
            "`hf auth login` or HF_TOKEN"
        )
    elif isinstance(cause, errors.RevisionNotFoundError):
        what = f"{repo} has no revision {revision}; give a branch, a tag or a whole commit hash"
    elif isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code == 401:
        what = f"{endpoint} does not take the token; log in with `hf auth login`, or mend HF_TOKEN"
    elif isinstance(cause, errors.HfHubHTTPError):
        status = f"{cause.response.status_code} {cause.server_message or cause.response.reason_phrase}"
        what = f"{endpoint} answers {status}; {_AGAIN}"
    elif isinstance(cause, errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        what = f"is not whole in the cache, {constants.HF_HUB_CACHE}{_hint()}"
    elif isinstance(cause, OSError) and cause.errno and not isinstance(cause, ConnectionError | TimeoutError):
        what = f"cannot be kept in {constants.HF_HUB_CACHE}: {reason(cause)}; HF_HOME names another place"
    elif isinstance(cause, ValueError):
        what = f"{cause}"
    else:
        what = f"the connection to {endpoint} failed ({type(cause).__name__}: {cause}); {_AGAIN}"
    return CheckpointError(f"{spec}: {what}")


def _hint() -> str:
    from huggingface_hub import is_offline_mode

    return "; HF_HUB_OFFLINE is set, unset it once to fetch the model" if is_offline_mode() else ""
