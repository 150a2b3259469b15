"""JSON files of evaluation, gzipped or not, whole or not there at all. Knows nothing of what they hold."""

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm_expo.errors import EvaluationError


def fetched(place: str) -> Path:
    """A path, or a file of a data set on the hub, hub:ORG/DATASET/FILE, which is fetched unless the cache has it.

    Raises EvaluationError where it cannot be had.
    """
    if not place.startswith("hub:"):
        return Path(place)
    organisation, _, rest = place.removeprefix("hub:").partition("/")
    dataset, _, name = rest.partition("/")
    if not name:
        raise EvaluationError(f"{place}: not a file of a data set; write hub:ORG/DATASET/FILE")
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HTTPError, RevisionResolutionError  # type: ignore[attr-defined]

    api, repo = HfApi(library_name="llm-expo"), f"{organisation}/{dataset}"
    try:
        # Asked once: for a file itself the library tries six times, and tells of each.
        pinned = api.resolve_revision(repo, repo_type="dataset", local_files_only=is_offline_mode())
        return Path(api.hf_hub_download(repo, name, repo_type="dataset", revision=pinned))
    except (HTTPError, RevisionResolutionError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RevisionResolutionError) and error.__cause__ else error
        told = " ".join(str(cause).split()).rstrip(".")
        if is_offline_mode():
            told = "HF_HUB_OFFLINE is set, and the cache does not have it"
        raise EvaluationError(f"{place}: cannot be fetched: {told}; give a file of your own instead") from None


def load_json(path: Path) -> Any:
    """Raises EvaluationError, naming the file."""
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return json.loads(raw)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        raise EvaluationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not JSON: {error}") from None


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that is only ever added to; a last line that a kill cut off is taken away.

    Raises EvaluationError, naming file and line.
    """
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with path.open("r+b") as file:
            file.truncate(whole)
    records = []
    for number, line in enumerate(raw[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}, line {number}: not an object")
        records.append(record)
    return records


def save_json(path: Path, value: Any) -> None:
    """Replaces the file at once: whoever reads it finds the old one or the new one."""
    _save(path, [json.dumps(value, indent=2, ensure_ascii=False, default=_plain)])


def save_lines(path: Path, records: Iterable[Any]) -> None:
    """The same as a JSONL file, an object a line; ASCII, so that half a character can be kept, too."""
    _save(path, (json.dumps(each, default=_plain) + "\n" for each in records))


def _save(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _plain(value: Any) -> Any:
    """NumPy's numbers, which libraries leave in what they report, as Python's; anything else in words."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else str(value)
