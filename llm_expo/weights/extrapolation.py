"""The plan at one alpha: a step for every tensor of theta1, and the files to write. Writes nothing, reads no tensor.

theta1's headers drive it; there is no list of architectures. stream.py carries the steps out.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from llm_expo.checkpoints import Checkpoint, Shard
from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.files import parse_json, shown
from llm_expo.checkpoints.header import Tensor, laid_out
from llm_expo.errors import CheckpointError, ExpoError
from llm_expo.weights.direction import Direction
from llm_expo.weights.kernel import Rounding
from llm_expo.weights.pairing import NewRows, Pairing

# The kernel's arithmetic is float32: beyond this, alpha itself is infinite.
_LARGEST_ALPHA = 3.4028234663852886e38

OutputDtype = Literal["keep", "float32", "bfloat16", "float16"]
_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class Move:
    """target = aligned + alpha * (aligned - initial), rounded once to the target's dtype.

    At alpha 0 this is aligned in another dtype, and theta0 has no part in it. The target's file is relative to the
    output folder.
    """

    target: Tensor
    initial: Source
    aligned: Source
    alpha: float
    why: str = ""

    @property
    def action(self) -> Literal["move", "convert"]:
        return "move" if self.alpha else "convert"

    @property
    def reason(self) -> str:
        sides = list(dict.fromkeys((self.initial.dtype, self.aligned.dtype, self.target.dtype)))
        return f"{' to '.join(sides)}, alpha {self.alpha:g}{self.why and f', {self.why}'}"


@dataclass(frozen=True, slots=True)
class Copy:
    """target = source, byte for byte."""

    target: Tensor
    source: Tensor
    why: str
    same_as: Tensor | None = None  # what the source's bytes have to equal, where they cannot be calculated with

    @property
    def action(self) -> Literal["copy"]:
        return "copy"

    @property
    def reason(self) -> str:
        return self.why


Step = Move | Copy


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A safetensors file to write: its header, and then what the steps put behind it."""

    name: str
    header: bytes = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)  # in the order of their bytes; they cover the file behind the header

    @property
    def size(self) -> int:
        return self.steps[-1].target.stop if self.steps else len(self.header)


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """What is written for theta(alpha), and why."""

    direction: Direction
    alpha: float
    dtype: OutputDtype
    rounding: Rounding
    files: tuple[OutputFile, ...]
    index: bytes | None = field(repr=False)  # the content of model.safetensors.index.json, None for a single file
    # How include, exclude, alpha_for and new_rows were set, where they were; of an output that is no model, what it is.
    selection: Mapping[str, object]
    notes: tuple[str, ...]  # what did not go by the tensors' own names
    # What else makes an adapter or a difference of the output, by file name: its settings, its JSON.
    made: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    base: Checkpoint | None = field(default=None, repr=False)  # under two adapters, if it is read

    @property
    def inputs(self) -> tuple[Checkpoint, ...]:
        """All that the steps read from."""
        sides = (self.direction.initial, self.direction.aligned)
        return sides if self.base is None else (*sides, self.base)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files of all inputs."""
        return tuple(shard for side in self.inputs for shard in side.shards)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all files, in the order in which they are written. A tensor with new rows has two."""
        return tuple(step for file in self.files for step in file.steps)

    @property
    def moved(self) -> int:
        """Number of tensors that are calculated."""
        return len({step.target.name for step in self.steps if step.action == "move"})

    @property
    def copied(self) -> int:
        """Number of tensors that are theta1's, or at alpha -1 theta0's."""
        return len({step.target.name for step in self.steps}) - self.moved

    @property
    def nbytes(self) -> int:
        """Bytes to write: weights and index, without the small files that come along."""
        return sum(file.size for file in self.files) + sum(map(len, (self.index or b"", *self.made.values())))


def plan(
    direction: Direction,
    alpha: float,
    *,
    dtype: OutputDtype = "keep",
    rounding: Rounding = Rounding(),  # noqa: B008 (a frozen value)
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    alpha_for: Sequence[tuple[str, float]] = (),
    new_rows: NewRows = "refuse",
) -> Extrapolation:
    """Plan theta(alpha) in theta1's own layout: its files, its order and, with `dtype` "keep", its headers and dtypes.

    Float tensors are moved; all others are copied from theta1. Where alpha is 0, theta1's tensor is copied, and where
    it is -1, theta0's, so that both are exact.

    alpha:            any finite number; 0 is theta1, -1 is theta0, above 0 extrapolates.
    dtype:            of all float tensors written; "keep" is theta1's, tensor by tensor.
    include, exclude: globs of tensor names. What no `include` matches (if there is any) or some `exclude` does, stays
                      theta1's, whether or not theta0 has its like.
    alpha_for:        (glob, alpha): another alpha for some tensors; the last match wins.
    new_rows:         see pairing.pair.

    Raises MismatchError for two checkpoints that do not belong together, CheckpointError where there is no float
    tensor, ExpoError for an alpha that is not finite, for a glob that matches nothing, and where nothing is left to
    move.
    """
    for value in (alpha, *(value for _, value in alpha_for)):
        finite(value)
    aligned = direction.aligned
    if not any(tensor.is_float for tensor in aligned.tensors.values()):
        dtypes = sorted({tensor.dtype for tensor in aligned.tensors.values()})
        raise CheckpointError(
            f"{shown(aligned.path)}: nothing to extrapolate, no tensor is F64, F32, F16 or BF16, "
            f"only {', '.join(dtypes)}"
        )
    alphas = _alphas(aligned.tensors, float(alpha), include, exclude, alpha_for)
    found = direction.paired(new_rows, {name for name, value in alphas.items() if value is None})
    if all(alphas[name] is None for name in found.partners if aligned.tensors[name].is_float):
        raise ExpoError("--include and --exclude leave no tensor to move")
    code = _CODES.get(dtype)
    files = []
    for shard in aligned.files:
        header, targets = _targets(shard, [aligned.tensors[tensor.name] for tensor in shard.tensors], code)
        steps = [step for target in targets for step in _steps(target, alphas, found, aligned)]
        files.append(OutputFile(targets[0].file.name if targets else _output_name(shard), header, tuple(steps)))
    selection: dict[str, object] = {"include": list(include), "exclude": list(exclude)}
    selection |= {"alpha_for": [list(each) for each in alpha_for], "new_rows": new_rows if new_rows == "copy" else None}
    return Extrapolation(
        direction,
        float(alpha),
        dtype,
        rounding,
        tuple(files),
        _index(aligned, files),
        {name: value for name, value in selection.items() if value},
        found.notes,
    )


def as_json(extrapolation: Extrapolation) -> dict[str, Any]:
    """The plan in JSON's types."""
    return {
        "alpha": extrapolation.alpha,
        "moved": extrapolation.moved,
        "copied": extrapolation.copied,
        "nbytes": extrapolation.nbytes,
        "files": [file.name for file in extrapolation.files],
        "steps": [
            {
                "action": step.action,
                "name": step.target.name,
                "shape": list(step.target.shape),
                "dtype": step.target.dtype,
                "file": str(step.target.file),
                "reason": step.reason,
            }
            for step in extrapolation.steps
        ],
        "warnings": [*extrapolation.notes, *extrapolation.direction.warnings()],
    }


def finite(alpha: float) -> float:
    """`alpha`, if one can calculate with it; else ExpoError."""
    if not math.isfinite(alpha) or abs(alpha) > _LARGEST_ALPHA:
        raise ExpoError(f"alpha must be a finite number in float32's range, not {alpha:g}")
    return float(alpha)


def _alphas(
    names: Iterable[str],
    alpha: float,
    include: Sequence[str],
    exclude: Sequence[str],
    alpha_for: Sequence[tuple[str, float]],
) -> dict[str, float | None]:
    """Every tensor's alpha; None for those that the globs leave out."""
    found = {
        name: alpha
        if (not include or any(fnmatchcase(name, glob) for glob in include))
        and not any(fnmatchcase(name, glob) for glob in exclude)
        else None
        for name in names
    }
    for glob in (*include, *exclude, *(glob for glob, _ in alpha_for)):
        if not any(fnmatchcase(name, glob) for name in found):
            like = shown(next(iter(found)))
            raise ExpoError(f'"{shown(glob)}" matches no tensor of theta1; its names are like {like}')
    for glob, value in alpha_for:
        matching = [name for name in found if fnmatchcase(name, glob) and found[name] is not None]
        if not matching:
            raise ExpoError(f'--alpha-for "{shown(glob)}" matches only tensors that --include and --exclude leave out')
        found |= dict.fromkeys(matching, float(value))
    return found


def _output_name(shard: Shard) -> str:
    name = shard.path.name
    if name.endswith(".bin"):
        return name.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"
    return re.sub(r"^difference", "model", name)


def _targets(shard: Shard, sources: Sequence[Source], code: str | None) -> tuple[bytes, list[Tensor]]:
    """The header of an output file and where its tensors lie in it: theta1's own header wherever that still holds."""
    path = Path(_output_name(shard))
    dtypes = [code if code is not None and source.is_float else source.dtype for source in sources]
    wanted = [(dtype, source.shape) for source, dtype in zip(sources, dtypes, strict=True)]
    if shard.header and wanted == [(tensor.dtype, tensor.shape) for tensor in shard.tensors]:
        return shard.header, [replace(tensor, file=path) for tensor in shard.tensors]
    return laid_out(path, [(source.name, *want) for source, want in zip(sources, wanted, strict=True)])


def _steps(target: Tensor, alphas: Mapping[str, float | None], found: Pairing, checkpoint: Checkpoint) -> list[Step]:
    """Usually one; two for a tensor with new rows."""
    name = target.name
    aligned, initial, alpha = checkpoint.tensors[name], found.partners.get(name), alphas[name]
    if not aligned.is_float:
        assert isinstance(aligned, Tensor)
        # What cannot be calculated with has to be alike, where it would otherwise have moved.
        alike = initial if alpha and isinstance(initial, Tensor) else None
        return [Copy(target, aligned, f"{aligned.dtype} is no type to calculate with: theta1's", alike)]
    if initial is None:
        return [_theta1s(target, aligned, found.copied[name])]
    if alpha is None:
        return [_theta1s(target, aligned, "left out: theta1's")]
    if alpha == 0:
        return [_theta1s(target, aligned, "alpha 0 is theta1")]
    if initial.shape == aligned.shape:
        return [_moved(target, initial, aligned, alpha)]
    assert isinstance(aligned, Tensor)
    shared, rows = initial.shape[0], aligned.shape[0]
    steps: list[Step] = []
    if shared:
        steps.append(_moved(target.rows(0, shared), initial, aligned.rows(0, shared), alpha))
    return [*steps, _theta1s(target.rows(shared, rows), aligned.rows(shared, rows), "new rows: theta1's")]


def _moved(target: Tensor, initial: Source, aligned: Source, alpha: float) -> Step:
    if alpha == -1 and isinstance(initial, Tensor) and initial.dtype == target.dtype:
        return Copy(target, initial, "alpha -1 is theta0")
    return Move(target, initial, aligned, alpha)


def _theta1s(target: Tensor, aligned: Source, why: str) -> Step:
    if isinstance(aligned, Tensor) and aligned.dtype == target.dtype:
        return Copy(target, aligned, why)
    return Move(target, aligned, aligned, 0.0, why)


def _index(aligned: Checkpoint, files: Sequence[OutputFile]) -> bytes | None:
    """theta1's own index while it is true; else a new one, for several files."""
    theirs = [(shard.path.name, shard.header) for shard in aligned.files]
    if theirs == [(file.name, file.header) for file in files]:
        return aligned.index
    if len(files) == 1:
        return None
    metadata = {} if aligned.index is None else parse_json(aligned.index, "the index").get("metadata")
    total = sum(step.target.nbytes for file in files for step in file.steps)
    weight_map = {step.target.name: file.name for file in files for step in file.steps}
    known = metadata if isinstance(metadata, dict) else {}
    record = {"metadata": {**known, "total_size": total}, "weight_map": weight_map}
    return (json.dumps(record, indent=2) + "\n").encode()
