"""A model kept as the place of theta0 and the difference from it in bfloat16: half the bytes of float32.

What preference training adds to a weight is small beside the weight. A number of 16 bits cannot hold the sum of the
two, but the difference by itself has 8 bits of its own: a relative error of 0.002, where bfloat16 weights lose a large
part of the step. The folder holds

    difference.json            where theta0 lies, its fingerprint, and the files
    difference.safetensors     every tensor of theta1, called "difference.NAME", or "whole.NAME" where it is theta1's
                               own; or difference-00001-of-00002.safetensors and so on
    config.json, tokenizer...  theta1's

and is seen as a Checkpoint whose tensors are theta0 + difference, calculated in float32 as they are read. No file has a
name that transformers takes for weights, and no tensor one that a model has: some loaders take any .safetensors file.
Knows nothing of alpha; writing one is in weights/differences.py.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_expo.checkpoints.calculated import Part, Source, Summed
from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import parse_json, read_bytes, shown
from llm_expo.checkpoints.header import Shard, Tensor
from llm_expo.checkpoints.hub import Located
from llm_expo.checkpoints.layout import (
    CONFIG_NAME,
    DIFFERENCE_NAME,
    WEIGHTS_BEGIN,
    difference_files,
    read_config,
    refuse_quantised,
)
from llm_expo.checkpoints.origins import Origin, open_initial, origin_from
from llm_expo.errors import CheckpointError

FORMAT = 1
DTYPE = "BF16"  # of differences
# What stands before a tensor's name.
APART, WHOLE = "difference.", "whole."
# float64 is calculated with in float64, which the sum is not.
_SUMMANDS = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference's folder, seen through its JSON and its safetensors headers."""

    located: Located
    initial: Origin  # theta0
    # As theta1 is to have them, the tensors by their names there. Their headers are not theta1's: they are left empty.
    files: tuple[Shard, ...]
    whole: frozenset[str]  # names of the tensors that are theta1's own
    config: dict[str, object] = field(repr=False)  # config.json

    @classmethod
    def open(cls, located: Located) -> "Difference":
        """Read the JSON and the headers. Raises CheckpointError, one line that names file and tensor."""
        folder = located.folder
        where = folder / DIFFERENCE_NAME
        beside = next((name for name in WEIGHTS_BEGIN if (folder / name).exists()), None)
        if beside is not None:
            raise CheckpointError(
                f"{shown(folder)}: holds a difference ({DIFFERENCE_NAME}) and whole weights ({beside}), two models; "
                "move one of them elsewhere"
            )
        record = parse_json(read_bytes(where), f"{shown(where)}: the file")
        if record.get("format") != FORMAT:
            raise CheckpointError(
                f"{shown(where)}: has the format {shown(record.get('format'))}, and {FORMAT} is read; install a newer "
                "llm-expo"
            )
        initial = origin_from(record.get("initial"), where)
        if initial is None or initial.fingerprint is None:
            raise CheckpointError(f"{shown(where)}: does not say where theta0 lies and which fingerprint it has")
        files = [Shard.open(folder / name) for name in difference_files(record, where)]
        stored = [tensor.name for file in files for tensor in file.tensors]
        whole = frozenset(name.removeprefix(WHOLE) for name in stored if name.startswith(WHOLE))
        config = read_config(folder) if (folder / CONFIG_NAME).exists() else {}
        refuse_quantised(folder, config)
        return cls(located, initial, tuple(map(_renamed, files)), whole, config)


def _renamed(file: Shard) -> Shard:
    tensors = []
    for tensor in file.tensors:
        prefix = next((each for each in (APART, WHOLE) if tensor.name.startswith(each)), None)
        if prefix is None:
            raise CheckpointError(
                f'{shown(file.path)}: {shown(tensor.name)} begins neither with "{APART}" nor with "{WHOLE}"'
            )
        tensors.append(replace(tensor, name=tensor.name.removeprefix(prefix)))
    return replace(file, header=b"", tensors=tuple(tensors))


def holds_difference(folder: Path) -> bool:
    """Whether `folder` is a difference's."""
    return os.path.isfile(folder / DIFFERENCE_NAME)  # noqa: PTH113 (which says no where it may not look)


def can_be_difference(initial: Source | None, aligned: Source) -> bool:
    """Whether theta1's tensor can be kept as the difference from theta0's."""
    return initial is not None and {initial.dtype, aligned.dtype} <= _SUMMANDS and initial.shape == aligned.shape


def shifted(difference: Difference, given: Checkpoint | None = None, *, allow_bin: bool = False) -> Checkpoint:
    """The whole model as a checkpoint: theta0 + difference, float32, under the names and in the order of theta1.

    given: a checkpoint that may be theta0, which is then read in the place of the one that the JSON names.
    Raises CheckpointError where theta0 is missing, has changed or is another, and where the two do not fit.
    """
    initial = open_initial(difference.initial, given, allow_bin=allow_bin)
    tensors: dict[str, Source] = {}
    for tensor in (tensor for file in difference.files for tensor in file.tensors):
        if tensor.name in tensors:
            raise CheckpointError(f"{shown(tensor.file)}: holds {shown(tensor.name)}, which was there before")
        tensors[tensor.name] = tensor if tensor.name in difference.whole else _sum(tensor, initial)
    if not tensors:
        raise CheckpointError(f"{shown(difference.located.folder)}: its files hold no tensor")
    return Checkpoint(difference.located, difference.files, tensors, None, difference.config, under=initial)


def _sum(tensor: Tensor, initial: Checkpoint) -> Summed:
    base = initial.tensors.get(tensor.name)
    if not isinstance(base, Tensor) or tensor.dtype != DTYPE or not can_be_difference(base, tensor):
        theirs = "nothing" if base is None else f"{base.dtype} {list(base.shape)}"
        raise CheckpointError(
            f"{shown(tensor.file)}: {shown(tensor.name)} is {tensor.dtype} {list(tensor.shape)}, which is no "
            f"difference from {theirs} in theta0 {shown(initial.path)}"
        )
    return Summed(tensor.name, (Part(base, 1.0), Part(tensor, 1.0)))


def file_names(count: int) -> Iterator[str]:
    """The names of a difference's files."""
    for number in range(count):
        yield "difference.safetensors" if count == 1 else f"difference-{number + 1:05}-of-{count:05}.safetensors"
