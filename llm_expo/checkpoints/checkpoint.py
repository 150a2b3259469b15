"""A model folder seen through its safetensors headers: one file, or shards with an index. Reads no tensor.

Takes what `save_pretrained` writes, the pickles of its earlier versions if asked to, and refuses everything else by
name, with the way out. Knows nothing of a second checkpoint, of arithmetic, or of the files beside the weights.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.files import parse_json, read_bytes, reason, shown
from llm_expo.checkpoints.header import Shard
from llm_expo.checkpoints.hub import Located, resolve
from llm_expo.checkpoints.layout import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_NAME,
    BIN_INDEX_NAME,
    BIN_NAME,
    CONFIG_NAME,
    DIFFERENCE_NAME,
    INDEX_NAME,
    SINGLE_NAME,
    read_config,
    refuse_packed,
    refuse_quantised,
    weights_begin,
    without_weights,
)
from llm_expo.checkpoints.pickles import open_pickle
from llm_expo.errors import CheckpointError

if TYPE_CHECKING:
    from llm_expo.checkpoints.adapter import Adapter


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of one model folder."""

    located: Located
    files: tuple[Shard, ...]  # sorted by name
    tensors: Mapping[str, Source] = field(repr=False)  # by name, in the order of the files and of the bytes in them
    # the content of model.safetensors.index.json, None for a single file and for pickles
    index: bytes | None = field(repr=False)
    config: Mapping[str, object] = field(repr=False)  # config.json; empty if there is none
    adapter: "Adapter | None" = field(default=None, repr=False)  # what some of the tensors are calculated from
    under: "Checkpoint | None" = field(default=None, repr=False)  # theta0, where they are calculated from differences

    @classmethod
    def open(cls, spec: str | os.PathLike[str] | Located, *, allow_bin: bool = False) -> "Checkpoint":
        """Read the headers of a model: a folder, or ORG/NAME[@REVISION], which is fetched into the hub's cache.

        allow_bin: also take pytorch_model.bin, whole or in shards, where there are no safetensors; nothing in it is
                   executed.
        Raises CheckpointError, one line that names file and tensor: no such folder, no safetensors in it, an adapter, a
        quantised model, a damaged file, an index that disagrees with its files.
        """
        located = spec if isinstance(spec, Located) else resolve(spec, allow_bin)
        folder = located.folder
        names = _names_in(folder)
        _refuse_parts(folder, names)
        config = read_config(folder) if CONFIG_NAME in names else {}
        refuse_quantised(folder, config)
        begin = weights_begin(names, allow_bin)
        if begin is None:
            raise CheckpointError(f"{shown(folder)}: {without_weights(names)}")
        if begin in (SINGLE_NAME, BIN_NAME):
            shard = _open_shard(folder / begin)
            found = cls(located, (shard,), {tensor.name: tensor for tensor in shard.tensors}, None, config)
        else:
            found = _open_sharded(located, names, begin, config)
        if not found.tensors:
            kind = "safetensors" if begin in (SINGLE_NAME, INDEX_NAME) else "pickles"
            raise CheckpointError(f"{shown(folder)}: its {kind} hold no tensor")
        refuse_packed(folder, found.tensors)
        return found

    @property
    def path(self) -> Path:
        """The folder."""
        return self.located.folder

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every file that its tensors are read from: its own, the adapter's, and those of the theta0 under it."""
        return (
            *self.files,
            *(() if self.adapter is None else (self.adapter.file,)),
            *(() if self.under is None else self.under.shards),
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the files lie that belong to it: its own folder, and the adapter's."""
        return tuple(dict.fromkeys((self.path, *(() if self.adapter is None else (self.adapter.path,)))))

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer and chat template lie: the adapter's folder, if that has some of its own."""
        has_its_own = (folder for folder in self.folders[::-1] if (folder / "tokenizer_config.json").exists())
        return next(has_its_own, self.path)

    @property
    def is_whole(self) -> bool:
        """Whether its folder by itself is the model: no tensor is calculated."""
        return self.adapter is None and self.under is None

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
        raise CheckpointError(f"{shown(folder)}: no such folder") from error
    except OSError as error:
        raise CheckpointError(f"{shown(folder)}: {reason(error)}") from error


def _refuse_parts(folder: Path, names: frozenset[str]) -> None:
    if DIFFERENCE_NAME in names:
        raise CheckpointError(
            f"{shown(folder)}: holds a difference from theta0 ({DIFFERENCE_NAME}), where a whole model is wanted; "
            "write that with: llm-expo apply DIFFERENCE --alpha 0 --dtype float32 --out DIR"
        )
    # Beside whole weights, too: transformers would then load the adapter's base instead of them.
    for name in (ADAPTER_CONFIG_NAME, ADAPTER_NAME, "adapter_model.bin"):
        if name in names:
            raise CheckpointError(
                f"{shown(folder)}: holds an adapter ({name}), where a whole model is wanted; merge the two with: "
                "llm-expo apply BASE ADAPTER --alpha 0 --merge --out DIR"
            )


def _open_shard(path: Path) -> Shard:
    return open_pickle(path) if path.suffix == ".bin" else Shard.open(path)


def _open_sharded(located: Located, names: frozenset[str], index_name: str, config: Mapping[str, object]) -> Checkpoint:
    folder = located.folder
    where = shown(folder / index_name)
    kind, suffix = ("pickle", ".bin") if index_name == BIN_INDEX_NAME else ("safetensors", ".safetensors")
    raw = read_bytes(folder / index_name)
    weight_map = parse_json(raw, f"{where}: the file").get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{where}: has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{where}: {shown(name)}: the file is not a name")
        # A plain name cannot lead outside the folder. Links inside it may: the hub's cache is made of them.
        if "/" in file or "\\" in file or "\0" in file or not file.endswith(suffix):
            raise CheckpointError(
                f'{where}: {shown(name)} lies in "{shown(file)}", which is not the name of a {kind} file here'
            )
        if file not in names:
            raise CheckpointError(f"{where}: {shown(name)} lies in {shown(file)}, which is missing")
    shards = tuple(_open_shard(folder / file) for file in sorted(set(weight_map.values())))
    tensors: dict[str, Source] = {}
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
    return Checkpoint(located, shards, tensors, raw if index_name == INDEX_NAME else None, config)
