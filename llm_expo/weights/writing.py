"""A plan becomes a model folder: weights, the files beside them, provenance, and one rename."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import llm_expo
from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.layout import INDEX_NAME
from llm_expo.checkpoints.origins import place
from llm_expo.checkpoints.reader import Reader
from llm_expo.checkpoints.sidefiles import PROVENANCE_NAME, beside, side_file
from llm_expo.weights.adapters import plan_as_given
from llm_expo.weights.direction import Sides
from llm_expo.weights.extrapolation import Copy, Extrapolation, OutputFile, Step
from llm_expo.weights.partial import Partial, created, partial_folder, refuse_output
from llm_expo.weights.stream import Streamed, digest_file, stream_file, write_exactly
from llm_expo.weights.tally import Tally

Progress = Callable[[int], None]

# More threads than this wait for memory, not for cores.
_MOST_WORKERS = 4


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
    resumed: int  # files that a killed run had finished
    warnings: tuple[str, ...]  # what was matched in another way than by name, and what hints at the wrong pair
    seconds: float


def apply(
    initial: str | os.PathLike[str],
    aligned: str | os.PathLike[str],
    alpha: float,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    merge: bool = False,
) -> Written:
    """Write theta1 + alpha * (theta1 - theta0) to the new folder `out`: open, check, plan and write in one call.

    initial, aligned: theta0 and theta1, as folders or hub ids.
    merge: where theta1 is an adapter, write a whole model instead of an adapter.

    Raises what Sides.open, plan and write raise, all of them ExpoErrors.
    """
    return write(plan_as_given(Sides.open(initial, aligned), alpha, merge), out, progress)


def write(
    extrapolation: Extrapolation,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    workers: int | None = None,
    let_through: bool = False,
    on: Literal["here", "ray"] = "here",
) -> Written:
    """Write the model that `extrapolation` plans to the folder `out`, which must not exist.

    progress:    is told how many bytes have been written since the last call; all calls together tell
                 `extrapolation.nbytes`.
    workers:     threads; default: a thread a core, up to four. The result does not depend on it.
    let_through: keep theta1's value where an input holds NaN or infinity, instead of raising.
    on:          who writes the weights: this process, or the nodes of a Ray cluster (on_ray.py), a file at a time with
                 `workers` threads each. The result does not depend on it.

    Memory does not grow with the model. `out` appears whole or not at all; a run that was killed is gone on with, file
    by file, by the next one of the same plan. Raises OutputError (exists, inside an input, in use by another run, no
    space, forbidden), CheckpointError (an input that cannot be read, has changed meanwhile, or holds NaN or infinity
    where it is moved), ExpoError (overflow) or MismatchError (theta0 and theta1 that do not differ).
    """
    started = time.monotonic()
    out = Path(out)
    report = progress if progress is not None else lambda _: None
    direction = extrapolation.direction
    refuse_output(out, tuple(dict.fromkeys(shard.path.parent for shard in extrapolation.shards)))
    own = beside(direction.aligned.folders)
    warnings = (*extrapolation.notes, *direction.warnings())
    machine: AbstractContextManager[int] = nullcontext(workers or min(_cores(), _MOST_WORKERS))
    if on == "ray":
        from llm_expo.weights.on_ray import cluster

        machine = cluster(workers, _MOST_WORKERS)
    planned = _digest(extrapolation, let_through)
    with machine as threads, partial_folder(out, extrapolation.nbytes, planned) as partial:
        tally, resumed = _write_weights(extrapolation, partial, report, threads, let_through, on)
        # For an adapter the plan has asked: that nothing moves is as it should be there, the settings do.
        if extrapolation.moved and not tally.differing and not extrapolation.made:
            raise direction.nowhere()
        provenance = f"{json.dumps(_provenance(extrapolation, tally, warnings), indent=2)}\n".encode()
        for name, raw in {PROVENANCE_NAME: provenance, **extrapolation.made}.items():
            with created(partial.folder / name) as fd:
                write_exactly(fd, memoryview(raw), 0)
        report(sum(map(len, extrapolation.made.values())))
        for name, path in own.items():
            (partial.folder / name).parent.mkdir(exist_ok=True)
            with created(partial.folder / name) as fd, open(fd, "wb", closefd=False) as writing:
                writing.writelines(side_file(path, extrapolation.dtype))
        nbytes = sum(path.stat().st_size for path in partial.folder.rglob("*") if path.is_file())
    return Written(
        path=out,
        moved=extrapolation.moved,
        copied=extrapolation.copied,
        share_differing=tally.share_differing,
        share_swallowed=tally.share_swallowed,
        realised_alpha=tally.realised_alpha,
        nbytes=nbytes,
        resumed=resumed,
        warnings=warnings,
        seconds=time.monotonic() - started,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_weights(
    extrapolation: Extrapolation,
    partial: Partial,
    report: Progress,
    workers: int,
    let_through: bool,
    on: Literal["here", "ray"],
) -> tuple[Tally, int]:
    """The tally of all weights, and how many files had been finished before."""
    found: dict[str, Streamed] = {}
    for file in extrapolation.files:
        done = _written_before(file, partial)
        if done is not None:
            found[file.name] = done
            report(file.size)
    resumed = len(found)

    def finished(file: OutputFile, done: Streamed) -> None:
        partial.record(file.name, {"bytes": file.size, "digest": done.digest, "tally": asdict(done.tally)})
        found[file.name] = done

    write_files = _write_here
    if on == "ray":
        from llm_expo.weights.on_ray import write_files
    missing = [file for file in extrapolation.files if file.name not in found]
    write_files(missing, finished, extrapolation, partial, workers=workers, let_through=let_through, progress=report)
    if extrapolation.index is not None:
        with created(partial.folder / INDEX_NAME) as fd:
            write_exactly(fd, memoryview(extrapolation.index), 0)
        report(len(extrapolation.index))
    # In the plan's order, whichever file was finished first: the last digits of the sums depend on it.
    return sum((found[file.name].tally for file in extrapolation.files), Tally()), resumed


def _write_here(
    files: Sequence[OutputFile],
    finished: Callable[[OutputFile, Streamed], None],
    extrapolation: Extrapolation,
    partial: Partial,
    *,
    workers: int,
    let_through: bool,
    progress: Progress,
) -> None:
    """Write the files one after the other, and tell of each when it is whole and synced."""
    with Reader(extrapolation.shards) as reader:
        for file in files:
            with created(partial.folder / file.name) as fd:
                done = stream_file(
                    file,
                    fd,
                    reader,
                    rounding=extrapolation.rounding,
                    let_through=let_through,
                    workers=workers,
                    progress=progress,
                )
            finished(file, done)


def _written_before(file: OutputFile, partial: Partial) -> Streamed | None:
    """What a killed run recorded of a file, if its bytes are still those; a file that they are not is removed."""
    record = partial.finished.get(file.name)
    if record is None:
        return None
    path = partial.folder / file.name
    try:
        with path.open("rb") as reading:
            whole = path.stat().st_size == record["bytes"] == file.size
            if whole and digest_file(file, reading.fileno()) == record["digest"]:
                return Streamed(Tally(**record["tally"]), record["digest"])
    except FileNotFoundError:
        return None
    path.unlink()
    return None


def _digest(extrapolation: Extrapolation, let_through: bool) -> str:
    """Of all that decides which bytes are written: two runs with the same digest write the same."""
    digest = hashlib.sha256(repr((llm_expo.__version__, extrapolation.rounding, let_through)).encode())
    for side in extrapolation.inputs:
        if side.adapter is not None:
            digest.update(repr(side.adapter.config).encode())
        for shard in side.shards:
            digest.update(repr((os.path.realpath(shard.path), shard.size, shard.modified_ns)).encode() + shard.header)
    digest.update(repr(extrapolation.made).encode())
    for file in extrapolation.files:
        digest.update(repr((file.name, len(file.header))).encode() + file.header)
        for step in file.steps:
            digest.update(_described(step))
    return digest.hexdigest()


def _described(step: Step) -> bytes:
    # Where the tensors lie is in their files' headers; which is whose partner, and how far it goes, is not.
    if isinstance(step, Copy):
        return f"{step.target.name}\0{step.source.file}\0{step.source.start}\n".encode()
    return f"{step.target.name}\0{step.initial.name}\0{step.alpha!r}\n".encode()


def _provenance(extrapolation: Extrapolation, tally: Tally, warnings: tuple[str, ...]) -> dict[str, object]:
    """What llm_expo.json says. Nothing in it depends on when it was written: the same run gives the same bytes."""
    return {
        "tool": "llm-expo",
        "version": llm_expo.__version__,
        "method": "model extrapolation (ExPO), arXiv 2404.16792, eq. 1",
        "formula": "theta1 + alpha * (theta1 - theta0)",
        "alpha": extrapolation.alpha,
        **extrapolation.selection,
        "dtype": extrapolation.dtype,
        "rounding": asdict(extrapolation.rounding) if extrapolation.rounding.mode == "stochastic" else "nearest",
        "initial": _described_input(extrapolation.direction.initial),
        "aligned": _described_input(extrapolation.direction.aligned),
        "tensors": {"moved": extrapolation.moved, "copied": extrapolation.copied},
        "statistics": {
            "weights_moved": tally.elements,
            "share_differing": tally.share_differing,
            "share_swallowed": tally.share_swallowed,
            "realised_alpha": tally.realised_alpha,
        },
        "warnings": list(warnings),
    }


def _described_input(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        **place(checkpoint.located),
        **({} if checkpoint.adapter is None else {"adapter": place(checkpoint.adapter.located)}),
        **({} if checkpoint.under is None else {"difference_from": place(checkpoint.under.located)}),
        "files": [{"name": shard.path.name, "bytes": shard.size} for shard in checkpoint.shards],
    }
