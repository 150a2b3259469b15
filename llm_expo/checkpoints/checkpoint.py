"""A model folder seen through its safetensors headers: one file, or shards with an index. Reads no tensor.

Takes what `save_pretrained` writes and refuses everything else by name, with the way out. Knows nothing of a second
checkpoint, of arithmetic, or of the files that lie beside the weights.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_expo.checkpoints.files import parse_json, parse_settings, read_bytes, reason, shown
from llm_expo.checkpoints.header import Shard, Tensor
from llm_expo.errors import CheckpointError

# The two names that transformers gives to safetensors weights; when both are there, it reads the first, and so do we.
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_NAMES_IN_A_MESSAGE = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of one model folder."""

    path: Path
    files: tuple[Shard, ...]  # sorted by name
    tensors: Mapping[str, Tensor] = field(repr=False)  # by name, in the order of the files and of the bytes in them
    index: bytes | None = field(repr=False)  # the content of model.safetensors.index.json, None for a single file
    config: Mapping[str, object] = field(repr=False)  # config.json; empty if there is none

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_bin: bool = False) -> "Checkpoint":
        """Read the headers of the model in folder `path`.

        Raises CheckpointError, one line that names file and tensor: no such folder, no safetensors in it, an adapter, a
        quantised model, a damaged file, an index that disagrees with its files.
        """
        folder = Path(path)
        names = _names_in(folder)
        _refuse_adapter(folder, names)
        config = _config(folder, names)
        _refuse_quantised(folder, config)
        if SINGLE_NAME in names:
            shard = Shard.open(folder / SINGLE_NAME)
            found = cls(folder, (shard,), {tensor.name: tensor for tensor in shard.tensors}, None, config)
        elif INDEX_NAME in names:
            found = _open_sharded(folder, names, config)
        else:
            raise CheckpointError(f"{shown(folder)}: {_what_is_there(names)}")
        if not found.tensors:
            raise CheckpointError(f"{shown(folder)}: its safetensors hold no tensor")
        return found

    @property
    def nbytes(self) -> int:
        """Size of the weight files, headers included."""
        return sum(shard.size for shard in self.files)


def _names_in(folder: Path) -> frozenset[str]:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            advice = "; give the folder that holds it" if folder.suffix == ".safetensors" else ""
            raise CheckpointError(f"{shown(folder)}: is not a folder{advice}")
        return frozenset(entry.name for entry in folder.iterdir())
    except FileNotFoundError as error:
        given = str(folder)
        if _HUB_ID.fullmatch(given):
            name, _, revision = given.partition("@")
            command = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir DIR"
            raise CheckpointError(
                f"{given}: no such folder; hub ids are not read yet, fetch it with `{command}` and give DIR"
            ) from error
        raise CheckpointError(f"{shown(folder)}: no such folder") from error
    except OSError as error:
        raise CheckpointError(f"{shown(folder)}: {reason(error)}") from error


def _refuse_adapter(folder: Path, names: frozenset[str]) -> None:
    # Beside whole weights, too: transformers would then load the adapter's base instead of them.
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        if name in names:
            raise CheckpointError(
                f"{shown(folder)}: holds an adapter ({name}), not a whole model; "
                "merge it into its base first (peft: merge_and_unload, then save_pretrained)"
            )


def _config(folder: Path, names: frozenset[str]) -> dict[str, object]:
    if "config.json" not in names:
        return {}
    return parse_settings(read_bytes(folder / "config.json"), f"{shown(folder / 'config.json')}: the file")


def _refuse_quantised(folder: Path, config: Mapping[str, object]) -> None:
    # Multimodal models keep one config per part.
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            settings = part.get(key)
            if settings:
                method = settings.get("quant_method") if isinstance(settings, dict) else None
                raise CheckpointError(
                    f"{shown(folder)}: is quantised ({shown(method or key)}, see config.json), and quantised weights "
                    "cannot be extrapolated; take the checkpoint that it was quantised from, or dequantise it first"
                )


def _what_is_there(names: frozenset[str]) -> str:
    """Why a folder without model.safetensors is not read, and the way out."""
    with_suffix = {suffix: sorted(n for n in names if n.endswith(suffix)) for suffix in (".safetensors", ".gguf")}
    pickles = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")) and n != "training_args.bin")
    wanted = f"no {SINGLE_NAME} or {INDEX_NAME} here"
    if with_suffix[".safetensors"]:
        return f"{wanted}, only {_some(with_suffix['.safetensors'])}; load it and save it with save_pretrained"
    if pickles:
        return (
            f"{wanted}, only {_some(pickles)}; pickles are not read (they can run code): convert to safetensors, "
            "for instance by loading it in transformers and save_pretrained"
        )
    if with_suffix[".gguf"]:
        return f"{wanted}, only {_some(with_suffix['.gguf'])}; GGUF is not read, take the checkpoint it was made from"
    if not names:
        return f"{wanted}, the folder is empty"
    return f"{wanted}, only {_some(sorted(names))}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_IN_A_MESSAGE} more" if len(names) > _NAMES_IN_A_MESSAGE else ""
    return ", ".join(shown(name) for name in names[:_NAMES_IN_A_MESSAGE]) + more


def _open_sharded(folder: Path, names: frozenset[str], config: Mapping[str, object]) -> Checkpoint:
    where = shown(folder / INDEX_NAME)
    raw = read_bytes(folder / INDEX_NAME)
    weight_map = parse_json(raw, f"{where}: the file").get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{where}: has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{where}: {shown(name)}: the file is not a name")
        # A plain name cannot lead outside the folder. Links inside it may: the hub's cache is made of them.
        if "/" in file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f'{where}: {shown(name)} lies in "{shown(file)}", which is not the name of a safetensors file here'
            )
        if file not in names:
            raise CheckpointError(f"{where}: {shown(name)} lies in {shown(file)}, which is missing")
    shards = tuple(Shard.open(folder / file) for file in sorted(set(weight_map.values())))
    tensors: dict[str, Tensor] = {}
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        file = weight_map.get(tensor.name)
        if file is None:
            raise CheckpointError(f"{where}: does not name {shown(tensor.name)}, which {tensor.file.name} holds")
        if file != tensor.file.name:
            raise CheckpointError(
                f"{where}: {shown(tensor.name)} lies in {shown(file)}, but {tensor.file.name} holds it"
            )
        tensors[tensor.name] = tensor
    for name, file in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{where}: {shown(name)} lies in {shown(file)}, which does not hold it")
    return Checkpoint(folder, shards, tensors, raw, config)
