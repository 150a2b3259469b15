"""A folder that appears under its final name only when it is whole, and synced.

The work is done in OUT.partial, beside OUT: `OUT.partial/model` is filled and then renamed to OUT in one step;
`OUT.partial/lock` is locked by the run that is at work, so that a second one is refused and a killed one's leftover is
recognised; `OUT.partial/journal` says which plan is carried out and which files of it are finished, so that the next
run of the same plan goes on from there, and a run of any other begins anew; `OUT.partial/attempts` holds files that
others make for the run, until it takes them. Knows nothing of models. Every OSError becomes an OutputError.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_expo.checkpoints.files import reason, shown
from llm_expo.errors import OutputError, UnfinishedError


def refuse_output(out: Path, inputs: tuple[Path, ...]) -> None:
    """Raise OutputError if `out` exists (as whatever), or is or lies in one of the input folders."""
    if os.path.lexists(out):
        raise OutputError(f"{shown(out)}: already exists; name a new folder, or remove it first")
    # realpath, since Path.resolve raises a RuntimeError for a loop of links
    place = Path(os.path.realpath(out))
    for folder in inputs:
        source = Path(os.path.realpath(folder))
        if place.is_relative_to(source):
            raise OutputError(f"{shown(out)}: lies in the input folder {shown(folder)}; inputs are never written to")
        if source.is_relative_to(_work_folder(place)):
            raise OutputError(f"{shown(folder)}: an input cannot lie where {shown(out)} is being made")


Record = dict[str, Any]

_OURS = {"lock", "model", "journal", "attempts"}


@dataclass(frozen=True, slots=True)
class Partial:
    """The folder to fill, and what a killed run of the same plan had finished in it."""

    folder: Path
    attempts: Path  # beside it, for files that several may be making at once, each under a name of its own
    finished: Mapping[str, Record]  # by file name: what was recorded of it
    _journal: Path

    def record(self, name: str, record: Record) -> None:
        """Note that a file is finished: whole and synced."""
        _append(self._journal, {"file": name, **record})


@contextmanager
def partial_folder(out: Path, nbytes: int, plan: str = "") -> Iterator[Partial]:
    """Yield a folder to fill; on leaving, sync it and rename it to `out`.

    An error leaves nothing of it behind. What a run leaves that was killed, interrupted or given up (UnfinishedError),
    the next one of the same plan finds.

    out:    must not exist; missing parents are created (and removed again on an error).
    nbytes: what is going to be written, at the least; refused beforehand where the disk has less.
    plan:   a digest of all that decides what is written; nothing is kept for a run without one.

    Raises OutputError: exists by now, in use by another run, no space, forbidden, or any other OSError within.
    """
    # normalised, so that its name is a name, and absolute, in case the caller changes folders
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link that `out` itself is)
    work = _work_folder(out)
    missing = [parent for parent in out.parents if not os.path.lexists(parent)]
    done = keep = False
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            _sync_folder(parent.parent)
        with _locked(work, out):
            try:
                partial = _begin(work, out, nbytes, plan)
                yield partial
                _finish(partial.folder, out)
                done = True
            except (KeyboardInterrupt, UnfinishedError):
                keep = bool(plan and _read_journal(work / "journal", plan))
                raise
            finally:
                if not keep:
                    _clear(work)
    except OSError as error:
        # Where the call had only a descriptor, as in write, there is no name: then it is about the output as a whole.
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else out
        raise OutputError(f"{shown(place)}: {reason(error)}; nothing was written to {shown(out)}") from error
    finally:
        if not (done or keep):
            for parent in missing:
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def created(path: Path) -> Iterator[int]:
    """Create a file and yield its descriptor; on leaving, sync and close it. Its mode honours the umask."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


def _work_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


@contextmanager
def _locked(work: Path, out: Path) -> Iterator[None]:
    in_use = OutputError(f"{shown(out)}: another run is writing it (in {shown(work)})")
    # A folder of that name which somebody else made is not ours to clear.
    if os.path.lexists(work) and (
        not work.is_dir() or work.is_symlink() or {entry.name for entry in work.iterdir()} - _OURS
    ):
        raise OutputError(f"{shown(work)}: is in the way, and not a leftover of ours; move it")
    work.mkdir(exist_ok=True)
    lock = work / "lock"
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:  # the other run finished between these two lines
        raise in_use from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use from None
        try:
            same = os.path.samestat(os.fstat(fd), lock.stat())
        except FileNotFoundError:
            same = False
        if not same:  # what was locked is no longer the lock: the other run removed it as it finished
            raise in_use
        try:
            yield
        finally:
            # The lock goes while it is held, and the folder after it: see the test above.
            with suppress(OSError):
                lock.unlink()
                work.rmdir()
    finally:
        os.close(fd)


def _begin(work: Path, out: Path, nbytes: int, plan: str) -> Partial:
    if os.path.lexists(out):
        raise OutputError(f"{shown(out)}: already exists; name a new folder, or remove it first")
    model, journal, attempts = work / "model", work / "journal", work / "attempts"
    finished = _read_journal(journal, plan) if plan and model.is_dir() and not model.is_symlink() else None
    if finished is None:
        _clear(work)
        model.mkdir()
        _append(journal, {"plan": plan})
        finished = {}
    shutil.rmtree(attempts, ignore_errors=True)
    attempts.mkdir()
    for leftover in model.iterdir():  # what was not finished is of no use
        if leftover.name not in finished:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    there = sum(entry.stat().st_size for entry in model.iterdir())
    disk = shutil.disk_usage(work)
    if disk.total and disk.free + there < nbytes:  # some network file systems say 0 of 0
        raise OutputError(
            f"{shown(out)}: not enough space, {_size(nbytes - there)} are needed and {_size(disk.free)} are free"
        )
    return Partial(model, attempts, finished, journal)


def _clear(work: Path) -> None:
    for folder in ("model", "attempts"):
        shutil.rmtree(work / folder, ignore_errors=True)
    with suppress(OSError):
        (work / "journal").unlink()


def _append(journal: Path, record: Record) -> None:
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, json.dumps(record).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_journal(journal: Path, plan: str) -> dict[str, Record] | None:
    """What is finished of `plan`, or None if the journal is of another one. A torn last line does not count."""
    try:
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError):
        return None
    if not lines or lines[0] != {"plan": plan}:
        return None
    return {line["file"]: line for line in lines[1:] if isinstance(line, dict) and "file" in line}


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _finish(model: Path, out: Path) -> None:
    for folder, _, _ in os.walk(model, topdown=False):
        _sync_folder(Path(folder))
    # rename would replace an empty folder without a word
    if os.path.lexists(out):
        raise OutputError(f"{shown(out)}: was made by somebody else in the meantime")
    model.rename(out)
    _sync_folder(out.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say this
            raise
    finally:
        os.close(fd)
