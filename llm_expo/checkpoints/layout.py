"""What a model folder is taken for, by the names in it and its config.json: whole weights, and where they begin.

The same rules serve a folder on disk and one that still lies on the hub. Of tensors it sees names and dtypes.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.files import parse_settings, read_bytes, shown
from llm_expo.errors import CheckpointError, listed

CONFIG_NAME = "config.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
DIFFERENCE_NAME = "difference.json"
BIN_NAME = "pytorch_model.bin"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"
# In transformers' order: safetensors before pickles, a single file before an index.
WEIGHTS_BEGIN = (SINGLE_NAME, INDEX_NAME, BIN_NAME, BIN_INDEX_NAME)
# (end of a packed tensor's name, what stands in its place in the name of that which unpacks it, the method)
_PACKED = (
    ("qweight", "g_idx", "GPTQ"),
    ("qweight", "scales", "AWQ"),
    ("weight_packed", "weight_scale", "compressed-tensors"),
    ("", "_scale_inv", "fp8 in blocks"),
    ("weight", "scale", "fp8 in blocks"),
    ("", "_scale", "weights with scales"),
    ("", ".absmax", "bitsandbytes, 4 bits"),
    ("weight", "SCB", "bitsandbytes, 8 bits"),
    ("_blocks", "_scales", "MXFP4"),
    ("W_q", "scale", "HQQ"),
    ("_data", "_scale", "quanto"),
    ("qdata", "scale", "torchao"),
    ("codes", "codebooks", "AQLM"),
)


def weights_begin(names: Collection[str], allow_bin: bool) -> str | None:
    """The file to open first: the weights themselves, or the index of their shards; None if there are none."""
    wanted = WEIGHTS_BEGIN if allow_bin else (SINGLE_NAME, INDEX_NAME)
    return next((name for name in wanted if name in names), None)


def without_weights(names: Collection[str]) -> str:
    """Why a folder with these names, in which no weights begin, is not read, and the way out."""
    with_suffix = {suffix: sorted(n for n in names if n.endswith(suffix)) for suffix in (".safetensors", ".gguf")}
    pickles = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")) and n != "training_args.bin")
    wanted = f"no {SINGLE_NAME} or {INDEX_NAME} here"
    if with_suffix[".safetensors"]:
        return f"{wanted}, only {_some(with_suffix['.safetensors'])}; load it and save it with save_pretrained"
    if pickles:
        allow = f", or give --allow-bin, which executes nothing in {BIN_NAME} (apply, compare)"
        return (
            f"{wanted}, only {_some(pickles)}; pickles are not read (they can run code): convert to safetensors, "
            "for instance by loading it in transformers and save_pretrained"
            f"{allow if BIN_NAME in names or BIN_INDEX_NAME in names else ''}"
        )
    if with_suffix[".gguf"]:
        return f"{wanted}, only {_some(with_suffix['.gguf'])}; GGUF is not read, take the checkpoint it was made from"
    if not names:
        return f"{wanted}, the folder is empty"
    return f"{wanted}, only {_some(sorted(names))}"


def difference_files(record: Mapping[str, object], where: Path) -> list[str]:
    """The files that a difference's JSON, read from `where`, names. Raises CheckpointError where those are no names."""
    files = record.get("files")
    if not isinstance(files, list) or not files:
        raise CheckpointError(f"{shown(where)}: names no files")
    for name in files:
        # A plain name cannot lead outside the folder.
        if not isinstance(name, str) or not re.fullmatch(r"difference(-\d+-of-\d+)?\.safetensors", name):
            raise CheckpointError(f'{shown(where)}: "{shown(name)}" is not the name of a difference\'s file')
    return sorted(set(files))


def read_config(folder: Path) -> dict[str, object]:
    """The folder's config.json. Raises CheckpointError where it cannot be read."""
    return parse_settings(read_bytes(folder / CONFIG_NAME), f"{shown(folder / CONFIG_NAME)}: the file")


def refuse_quantised(folder: Path, config: dict[str, object]) -> None:
    """Raise CheckpointError if the folder's config.json says that the weights are quantised."""
    for part in parts(config):
        for key in ("quantization_config", "compression_config"):
            settings = part.get(key)
            if settings:
                method = settings.get("quant_method") if isinstance(settings, dict) else None
                raise _quantised(folder, f"{shown(method or key)}, see config.json")


def refuse_packed(folder: Path, tensors: Mapping[str, Source]) -> None:
    """Raise CheckpointError if the tensors themselves tell that they are quantised: codes, and what unpacks them.

    Only what is no float counts as codes: models have parameters of their own that are called "scale".
    """
    for name, tensor in tensors.items():
        if tensor.is_float:
            continue
        for ending, beside, method in _PACKED:
            key = name.removesuffix(ending) + beside
            if name.endswith(ending) and key in tensors:
                raise _quantised(folder, f"{method}: {shown(name)} is {tensor.dtype}, beside it lies {shown(key)}")


def parts(config: dict[str, object]) -> Iterator[dict[str, object]]:
    """A config and those inside it: multimodal models keep one per part."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [value for value in part.values() if isinstance(value, dict)]


def _quantised(folder: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{shown(folder)}: is quantised ({how}), and quantised weights cannot be extrapolated; take the checkpoint "
        "that it was quantised from, or dequantise it first"
    )


def _some(names: list[str]) -> str:
    return listed([*map(shown, names)], ", ", most=3)
