"""A plan's files written by the nodes of a Ray cluster, a task for each file, on storage that all of them share.

A task writes under a name of its own into OUT.partial/attempts, and syncs; the driver gives the file its real name. So
a task may be done again after its node has died, and what a dead or a lost node still writes is nobody's file. Knows
nothing of the journal, of the statistics and of the files beside the weights: those are the driver's (writing.py).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import llm_expo
from llm_expo.checkpoints import Shard
from llm_expo.checkpoints.files import reason, shown
from llm_expo.checkpoints.reader import Reader
from llm_expo.cluster.connection import connected, cores_of_nodes
from llm_expo.errors import CheckpointError, ExpoError, OutputError, UnfinishedError
from llm_expo.weights.extrapolation import Extrapolation, OutputFile
from llm_expo.weights.kernel import Rounding
from llm_expo.weights.partial import Partial, created
from llm_expo.weights.stream import Streamed, stream_file

_KEPT = "the files that are finished are kept, run it again"
# How often a file is tried again after a node or a worker process died at it: nodes are lost now and then, but a file
# that takes down whoever works on it must not go on for ever.
_RETRIES = 5
_SHARED = "inputs and output have to lie on storage that every node sees under the same path"
_CANCELLED_WITHIN = 30  # seconds


@contextmanager
def cluster(workers: int | None, most_workers: int) -> Iterator[int]:
    """Connect to a Ray cluster, and yield the number of threads that a task is to have.

    Which one: see `connected`.

    workers: threads a task; None: as many as the largest node has cores, up to `most_workers`.

    Raises MissingExtraError, and ExpoError where there is no connection, or no node with so many cores.
    """
    with connected():
        largest = max(cores_of_nodes(), default=0)
        threads = workers or max(1, min(largest, most_workers))
        if threads > largest:  # Ray would wait for such a node, for ever
            raise ExpoError(f"--workers {threads}: the largest node of the Ray cluster has {largest} cores")
        yield threads


@dataclass(frozen=True, slots=True)
class _Job:
    """What all tasks have in common."""

    version: str
    folder: Path  # of the driver: what relative paths are relative to
    attempts: Path
    shards: tuple[Shard, ...]  # without their headers and tensors
    rounding: Rounding
    let_through: bool
    workers: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A file that is whole and synced."""

    name: str  # in `attempts`
    node: str
    streamed: Streamed


@contextmanager
def _given_up() -> Iterator[None]:
    """What Ray itself says of its cluster becomes one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise UnfinishedError(f"the Ray cluster fails: {_said(error)}; {_KEPT}") from error


@_given_up()
def write_files(
    files: Sequence[OutputFile],
    finished: Callable[[OutputFile, Streamed], None],
    extrapolation: Extrapolation,
    partial: Partial,
    *,
    workers: int,
    let_through: bool,
    progress: Callable[[int], None],
) -> None:
    """Have the files written, and tell of each when it is whole and synced, in whatever order that happens.

    Needs a connection: see `cluster`. Raises what stream_file raises wherever it happens, CheckpointError and
    OutputError for a node that does not see an input or the output, UnfinishedError where Ray has given up. An error
    ends the other tasks as well.
    """
    import ray

    job = ray.put(
        _Job(
            llm_expo.__version__,
            Path.cwd(),
            partial.attempts,
            tuple(replace(shard, header=b"", tensors=()) for shard in extrapolation.shards),
            extrapolation.rounding,
            let_through,
            workers,
        )
    )
    task = ray.remote(num_cpus=workers, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_attempt)
    pending = {task.options(name=shown(file.name)).remote(file, job): file for file in files}
    try:
        while pending:
            (first, *_), _ = ray.wait(list(pending), num_returns=1)
            file = pending.pop(first)
            attempt = _outcome(first, file)
            try:
                (partial.attempts / attempt.name).rename(partial.folder / file.name)
            except FileNotFoundError:
                raise OutputError(
                    f"{shown(partial.attempts)}: what node {attempt.node} wrote there is not here; {_SHARED}"
                ) from None
            finished(file, attempt.streamed)
            progress(file.size)
    finally:
        for each in pending:
            ray.cancel(each, force=True)
        if pending:  # until they have ended, they hold their files open
            ray.wait(list(pending), num_returns=len(pending), timeout=_CANCELLED_WITHIN)


def _outcome(task: object, file: OutputFile) -> _Attempt:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        outcome = ray.get(task)
    except RayTaskError as error:
        *_, last = str(error).strip().splitlines()  # above it stands the traceback
        raise UnfinishedError(
            f"{shown(file.name)}: a node failed at it: {last} (every node needs llm-expo {llm_expo.__version__}); "
            f"{_KEPT}"
        ) from error
    except RayError as error:
        raise UnfinishedError(f"{shown(file.name)}: no node could write it: {_said(error)}; {_KEPT}") from error
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, _Attempt)
    return outcome


def _said(error: Exception) -> str:
    return str(error).strip().rstrip(".")


def _attempt(file: OutputFile, job: _Job) -> _Attempt | ExpoError | OSError:
    """Write one file, on some node. An error is returned: one that is raised and not asked for is logged by Ray."""
    from ray.util import get_node_ip_address

    node = get_node_ip_address()
    try:
        if llm_expo.__version__ != job.version:
            raise ExpoError(
                f"node {node} has llm-expo {llm_expo.__version__}, the driver {job.version}; install the same on all"
            )
        with suppress(OSError):
            os.chdir(job.folder)
        _check_sight(job, node)
        name = uuid4().hex
        with Reader(job.shards) as reader, created(job.attempts / name) as fd:
            streamed = stream_file(
                file,
                fd,
                reader,
                rounding=job.rounding,
                let_through=job.let_through,
                workers=job.workers,
                progress=lambda _: None,
            )
        return _Attempt(name, node, streamed)
    except (ExpoError, OSError) as error:
        return error


def _check_sight(job: _Job, node: str) -> None:
    for shard in job.shards:
        if not os.access(shard.path, os.R_OK):
            raise CheckpointError(f"{shown(shard.path)}: node {node} cannot read it; {_SHARED}")
    try:
        mode = job.attempts.stat().st_mode
    except OSError as error:
        raise OutputError(f"{shown(job.attempts)}: node {node} does not see it, {reason(error)}; {_SHARED}") from None
    # The driver made the folder: files get the permissions that its umask leaves, not the node's.
    os.umask(0o777 & ~mode)
