"""A plan becomes a model folder: weights, the files beside them, provenance, and one rename.

Torch is imported only when every refusal that needs no arithmetic has been made: a wrong path is answered at once.
"""

import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import open_regular, read_exactly
from llm_expo.checkpoints.layout import INDEX_NAME
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME, side_files
from llm_expo.weights.direction import Direction
from llm_expo.weights.extrapolation import Extrapolation, plan
from llm_expo.weights.partial import created, partial_folder, refuse_output

if TYPE_CHECKING:
    from llm_expo.weights.tally import Tally

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what became of the weights on the way.

    The shares and the realised alpha are those of the moved tensors: None where nothing was moved (alpha 0 and -1), or
    where theta0 and theta1 do not differ.
    """

    path: Path
    moved: int  # tensors
    copied: int  # tensors
    share_differing: float | None  # of the weights, whose theta0 and theta1 differ
    share_swallowed: float | None  # of those, which rounding left at theta1
    realised_alpha: float | None  # projection of what was written on the direction
    nbytes: int  # of all files
    seconds: float


def apply(
    initial: str | os.PathLike[str],
    aligned: str | os.PathLike[str],
    alpha: float,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
) -> Written:
    """Write theta1 + alpha * (theta1 - theta0) to the new folder `out`: open, check, plan and write in one call.

    initial, aligned: the folders of theta0 and theta1.
    Raises what Direction.open, plan and write raise, all of them ExpoErrors.
    """
    return write(plan(Direction.open(initial, aligned), alpha), out, progress)


def write(extrapolation: Extrapolation, out: str | os.PathLike[str], progress: Progress | None = None) -> Written:
    """Write the model that `extrapolation` plans to the folder `out`, which must not exist.

    progress: is told how many bytes have been written since the last call; all calls together tell
              `extrapolation.nbytes`.

    Memory does not grow with the model. `out` appears whole or not at all, also when the process is killed. Raises
    OutputError (exists, inside an input, in use by another run, no space, forbidden), CheckpointError (an input that
    cannot be read, has changed meanwhile, or holds NaN or infinity where it is moved) or ExpoError (overflow).
    """
    started = time.monotonic()
    out = Path(out)
    report = progress if progress is not None else lambda _: None
    direction = extrapolation.direction
    refuse_output(out, (direction.initial.path, direction.aligned.path))
    beside = side_files(direction.aligned.path)
    with partial_folder(out, extrapolation.nbytes) as folder:
        tally = _write_weights(extrapolation, folder, report)
        for name in beside:
            (folder / name).parent.mkdir(exist_ok=True)
            _copy_file(direction.aligned.path / name, folder / name)
        with created(folder / PROVENANCE_NAME) as fd, open(fd, "w", encoding="utf-8", closefd=False) as text:
            json.dump(_provenance(extrapolation, tally), text, indent=2)
            text.write("\n")
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Written(
        path=out,
        moved=extrapolation.moved,
        copied=extrapolation.copied,
        share_differing=tally.share_differing,
        share_swallowed=tally.share_swallowed,
        realised_alpha=tally.realised_alpha,
        nbytes=nbytes,
        seconds=time.monotonic() - started,
    )


def _write_weights(extrapolation: Extrapolation, folder: Path, report: Progress) -> "Tally":
    from llm_expo.weights.kernel import one_thread
    from llm_expo.weights.reader import Reader
    from llm_expo.weights.stream import stream_file, write_exactly
    from llm_expo.weights.tally import Tally

    direction = extrapolation.direction
    tally = Tally()
    with one_thread(), Reader(direction.initial, direction.aligned) as reader:
        for file in extrapolation.files:
            with created(folder / file.name) as fd:
                tally += stream_file(file, fd, reader, report)
        reader.check_unchanged()
    if extrapolation.index is not None:
        with created(folder / INDEX_NAME) as fd:
            write_exactly(fd, memoryview(extrapolation.index), 0)
        report(len(extrapolation.index))
    return tally


def _copy_file(source: Path, target: Path) -> None:
    """Copy the content; mode and times are those of any new file."""
    chunk = memoryview(bytearray(1 << 20))
    reading = open_regular(source)
    try:
        size = os.fstat(reading).st_size
        with created(target) as fd, open(fd, "wb", closefd=False) as writing:
            for at in range(0, size, len(chunk)):
                part = chunk[: min(len(chunk), size - at)]
                read_exactly(reading, part, at, source)
                writing.write(part)
    finally:
        os.close(reading)


def _provenance(extrapolation: Extrapolation, tally: "Tally") -> dict[str, object]:
    """What llm_expo.json says. Nothing in it depends on when it was written: the same run gives the same bytes."""
    return {
        "tool": "llm-expo",
        "version": _version(),
        "method": "model extrapolation (ExPO), arXiv 2404.16792, eq. 1",
        "formula": "theta1 + alpha * (theta1 - theta0)",
        "alpha": extrapolation.alpha,
        "initial": _origin(extrapolation.direction.initial),
        "aligned": _origin(extrapolation.direction.aligned),
        "tensors": {"moved": extrapolation.moved, "copied": extrapolation.copied},
        "statistics": {
            "weights_moved": tally.elements,
            "share_differing": tally.share_differing,
            "share_swallowed": tally.share_swallowed,
            "realised_alpha": tally.realised_alpha,
        },
    }


def _origin(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "path": os.path.abspath(checkpoint.path),  # noqa: PTH100 (the path as given; the hub cache's links mean something)
        "files": [{"name": shard.path.name, "bytes": shard.size} for shard in checkpoint.files],
    }


def _version() -> str:
    try:
        return importlib.metadata.version("llm-expo")
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path, not installed
        from llm_expo import __version__

        return __version__
