"""The files beside the weights: which of them belong to the model, and how those of two checkpoints differ.

What is left out is listed, not what is taken: a file too many does no harm, one too few and the model may not load.
Knows nothing of tensors.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from llm_expo.checkpoints.files import open_regular, parse_settings, read_bytes, read_exactly, reason, shown
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, CONFIG_NAME, DIFFERENCE_NAME, parts
from llm_expo.errors import CheckpointError

PROVENANCE_NAME = "llm_expo.json"

# The one folder that transformers reads beside the weights; others are training steps, exports, caches.
_FOLDERS = ("additional_chat_templates",)
_LEFT_OUT = (
    # weights, of whatever kind: theta1's are not theta(alpha)'s
    *(
        "*.safetensors",
        "*.bin",
        "*.pt",
        "*.pth",
        "*.ckpt",
        "*.gguf",
        "*.ggml",
        "*.h5",
        "*.ot",
        "*.msgpack",
        "*.onnx",
        "*.onnx_data",
    ),
    *("*.tflite", "*.npz", "*.npy", "*.pkl", "*.pickle", "*.tar", "*.tar.gz", "*.zip", "*.index.json"),
    # what tells of theta1's training and results
    *("README*", "training_args.*", "trainer_*.json", "*_results.json", "events.out.*", "*.log"),
    # hidden files, and what is written anew
    *(".*", PROVENANCE_NAME, DIFFERENCE_NAME, ADAPTER_CONFIG_NAME),
)
# Noise that differs between any two checkpoints.
_NO_DIFFERENCE = {"_name_or_path", "transformers_version"}


def is_side_file(name: str) -> bool:
    """Whether a file of this name, relative to the model's folder, belongs to the model beside its weights."""
    inside, _, last = name.rpartition("/")
    if inside:
        return inside in _FOLDERS and last[0] != "."
    return not any(fnmatch(name, pattern) for pattern in _LEFT_OUT)


def side_files(folder: Path) -> list[str]:
    """Names, relative to `folder`, of the files that belong to the model: config, tokenizer, templates, code, licence.

    Links are followed (the hub's cache is made of them). Raises CheckpointError for one that leads nowhere, and for
    what is neither file nor folder.
    """
    found = []
    try:
        for name in _names_in(folder):
            if not (folder / name).is_dir():
                found.append(name)
            elif name in _FOLDERS:
                found += [f"{name}/{inner}" for inner in _names_in(folder / name)]
    except OSError as error:
        raise CheckpointError(f"{shown(folder)}: {reason(error)}") from error
    found = [name for name in found if is_side_file(name)]
    for name in found:
        os.close(open_regular(folder / name))
    return found


def beside(folders: Iterable[Path]) -> dict[str, Path]:
    """The files that belong to one model, by name; a later folder's (an adapter's) take the place of an earlier one's.

    Raises as `side_files` does.
    """
    return {name: folder / name for folder in folders for name in side_files(folder)}


def side_file(path: Path, dtype: str = "keep") -> Iterator[bytes]:
    """The content of a side file, piece by piece; config.json says `dtype`, unless that is "keep".

    Raises CheckpointError for a file that cannot be read or is no valid JSON.
    """
    if path.name == CONFIG_NAME and dtype != "keep":
        config = parse_settings(read_bytes(path), f"{shown(path)}: the file")
        # transformers renamed the key in 4.56.
        for part in parts(config):
            for key in {"dtype", "torch_dtype"} & part.keys():
                part[key] = dtype
        if not {"dtype", "torch_dtype"} & config.keys():
            config["torch_dtype"] = dtype  # all versions read the old name
        yield (json.dumps(config, indent=2) + "\n").encode()
        return
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        for at in range(0, size, 1 << 20):
            part_bytes = bytearray(min(1 << 20, size - at))
            read_exactly(fd, memoryview(part_bytes), at, path)
            yield bytes(part_bytes)
    finally:
        os.close(fd)


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A file beside the weights that the two checkpoints do not share."""

    name: str
    what: Literal["only in theta0", "only in theta1", "differs"]
    keys: tuple[str, ...] = ()  # for JSON settings, the top-level keys whose values differ

    def __str__(self) -> str:
        keys = f" ({', '.join(shown(key) for key in self.keys)})" if self.keys else ""
        return f"{shown(self.name)}: {self.what}{keys}"


def file_differences(initial: Mapping[str, Path], aligned: Mapping[str, Path]) -> tuple[FileDifference, ...]:
    """How two models' files (`beside`) differ; JSON settings are compared key by key, all else as bytes."""
    found = [_difference(name, initial[name], aligned[name]) for name in initial.keys() & aligned.keys()]
    found += [FileDifference(name, "only in theta0") for name in initial.keys() - aligned.keys()]
    found += [FileDifference(name, "only in theta1") for name in aligned.keys() - initial.keys()]
    return tuple(sorted((each for each in found if each is not None), key=lambda each: each.name))


def _difference(name: str, initial: Path, aligned: Path) -> FileDifference | None:
    if _same_bytes(initial, aligned):
        return None
    # tokenizer.json is one huge value; which part of it differs is no news.
    if not name.endswith(".json") or name in ("tokenizer.json", "vocab.json"):
        return FileDifference(name, "differs")
    before, after = (parse_settings(read_bytes(path), f"{shown(path)}: the file") for path in (initial, aligned))
    keys = sorted(key for key in {*before, *after} - _NO_DIFFERENCE if _differ(before, after, key))
    return FileDifference(name, "differs", tuple(keys)) if keys else None


def _differ(before: dict[str, object], after: dict[str, object], key: str) -> bool:
    return key not in before or key not in after or before[key] != after[key]


def _same_bytes(one: Path, other: Path) -> bool:
    first = open_regular(one)
    try:
        second = open_regular(other)
        try:
            size = os.fstat(first).st_size
            if size != os.fstat(second).st_size:
                return False
            a, b = bytearray(1 << 20), bytearray(1 << 20)
            for at in range(0, size, len(a)):
                count = min(len(a), size - at)
                read_exactly(first, memoryview(a)[:count], at, one)
                read_exactly(second, memoryview(b)[:count], at, other)
                if a[:count] != b[:count]:
                    return False
            return True
        finally:
            os.close(second)
    finally:
        os.close(first)
