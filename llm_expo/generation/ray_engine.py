"""Replicas of the transformers engine on a Ray cluster: the same replies as one engine's, batch by batch, from many.

A replica is asked for whole batches, and cuts them as one engine would, so replies depend on neither their number nor
on who made what. Every job names its alpha: a replica that comes late, or again after it died, moves by itself.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import torch

from llm_expo.checkpoints.files import shown
from llm_expo.cluster.connection import connected, cores_of_nodes
from llm_expo.cluster.dispatch import Dispatcher
from llm_expo.cluster.replicas import Replicas, gpus_each, threads_each
from llm_expo.errors import EngineError
from llm_expo.generation.engine import Json, Reply, Request, Text
from llm_expo.generation.prompts import Prompt
from llm_expo.generation.sampling import Sampling
from llm_expo.generation.transformers_engine import TransformersEngine
from llm_expo.weights import Direction, OutputDtype

A = TypeVar("A")

_SHARED = "both checkpoints have to lie on storage that every node sees under the same path"


class RayEngine:
    """An Engine whose work is done by replicas of another one; `ray_engine_from` is the way in.

    Its settings are those of the engine that there are replicas of: a study may go on with the one or the other.

    Args:
        local: encodes prompts, and says what the settings are. It loads no weights.
        makes: a function for each replica, called where that is.
        files: what every node has to see.
        threads: of each replica.
        gpus: of each replica.
    """

    def __init__(
        self,
        local: TransformersEngine,
        makes: Sequence[Callable[[], TransformersEngine]],
        files: Sequence[Path],
        *,
        threads: int,
        gpus: int,
    ) -> None:
        self._local = local
        self._batches_at_once = 1 if gpus else threads  # a thread takes a batch, or even less
        there = [partial(_made, make, tuple(files), local.settings, threads) for make in makes]
        self._replicas = Replicas(there, cpus=threads, gpus=gpus, failure=EngineError)
        self._dispatcher: Dispatcher[Any, Any] = Dispatcher(self._replicas, len(there), EngineError)
        self._count = len(there)

    @property
    def settings(self) -> Mapping[str, Json]:
        return self._local.settings

    @property
    def environment(self) -> dict[str, Json]:
        """That of the replicas which are ready, at least one; where they differ, all that there are."""
        each = self._dispatcher.spread(_environment)
        return {name: _joined([environment[name] for environment in each]) for name in each[0]}

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return self._local.encode(prompts)

    @property
    def special_tokens(self) -> Mapping[int, str]:
        return self._local.special_tokens

    def move(self, alpha: float) -> None:
        """All replicas that are free, at once; another one moves when it is asked for replies."""
        self._dispatcher.spread(partial(_moved, alpha))

    def rest(self) -> None:
        self._dispatcher.spread(_rested)

    def generate(self, alpha: float, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """See `Engine`.

        Raises:
            EngineError: also where no replica is left, or replicas died again and again at the same batches.
        """
        chunks = dealt(batches, self._count, self._batches_at_once)
        for replies in self._dispatcher.each(partial(_replies, alpha, chunk) for chunk in chunks):
            yield from replies

    def log_probabilities(self, alpha: float, batches: Iterable[Sequence[Text]]) -> Iterator[list[float]]:
        return self._dispatcher.each(partial(_read, alpha, batch) for batch in batches)

    def end(self) -> None:
        """End all replicas."""
        self._replicas.end()


@contextmanager
def ray_engine_from(
    direction: Direction,
    sampling: Sampling,
    *,
    replicas: int,
    address: str | None = None,
    device: str | None = None,
    dtype: OutputDtype = "keep",
    low_memory: bool = False,
    scratch: Path | None = None,
    trust_remote_code: bool = False,
    workers: int | None = None,
) -> Iterator[RayEngine]:
    """Replicas of a TransformersEngine on a Ray cluster, until they are no longer wanted.

    Args:
        direction, sampling, dtype, low_memory, trust_remote_code: as TransformersEngine has them.
        replicas: how many; on a CPU each holds both checkpoints and the live model in memory, so threads are cheaper.
        address: of the cluster, HOST:PORT; see `connected` for None.
        device: "cuda", of which each replica gets one, or "cpu"; None takes GPUs if there are enough.
        scratch: as TransformersEngine has it, on storage that every node sees; each replica has a folder of its own in
            it. If None, a temporary folder of the node.
        workers: threads of each replica on a CPU; None takes as many as fit.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: the cluster has no room for so many replicas.
        ExpoError: there is no cluster at the address.
    """
    if replicas < 1:
        raise EngineError(f"--replicas {replicas}: there has to be at least one")
    with connected(address):
        device = device or ("cuda" if gpus_each(replicas) else "cpu")
        threads, gpus = _room(replicas, device, workers)
        make = partial(
            TransformersEngine,
            direction,
            sampling,
            dtype=dtype,
            low_memory=low_memory,
            trust_remote_code=trust_remote_code,
        )
        makes = [
            partial(make, device=device, scratch=None if scratch is None else scratch / f"replica-{place}")
            for place in range(replicas)
        ]
        files = [shard.path for side in (direction.initial, direction.aligned) for shard in side.shards]
        engine = RayEngine(make(device="cpu"), makes, files, threads=threads, gpus=gpus)
        try:
            yield engine
        finally:
            engine.end()


def dealt(batches: Iterable[A], hands: int, most: int) -> Iterator[list[A]]:
    """The batches in order, in chunks of at most `most`; of less where so many hands would not all get some."""
    source = iter(batches)
    while some := list(islice(source, hands * most)):
        size = -(-len(some) // hands)
        yield from (some[start : start + size] for start in range(0, len(some), size))


def _joined(values: Sequence[Json]) -> Json:
    return values[0] if len(set(values)) == 1 else " | ".join(sorted({str(value) for value in values}))


def _room(replicas: int, device: str, workers: int | None) -> tuple[int, int]:
    """Threads and GPUs of each replica. Raises EngineError where the cluster has not so many."""
    if device != "cpu":
        if device != "cuda":
            raise EngineError(f"--device {device}: on a cluster Ray says which GPU is whose; write --device cuda")
        if not gpus_each(replicas):
            raise EngineError(f"--replicas {replicas}: the Ray cluster has fewer GPUs; a replica takes one")
        return 1, 1
    threads = threads_each(replicas)
    if threads < (workers or 1):
        cores = " + ".join(map(str, cores_of_nodes()))
        raise EngineError(
            f"--replicas {replicas}, {workers or 1} cores each: the nodes of the Ray cluster have {cores}"
        )
    return workers or threads, 0


# -- on a node -------------------------------------------------------------------------------------------------------


def _made(
    make: Callable[[], TransformersEngine], files: Sequence[Path], settings: Mapping[str, Json], threads: int
) -> TransformersEngine:
    for file in files:
        if not os.access(file, os.R_OK):
            raise EngineError(f"cannot read {shown(file)}; {_SHARED}")
    torch.set_num_threads(threads)
    engine = make()
    for name, value in settings.items():
        if engine.settings[name] != value:
            raise EngineError(f"sees another {name}, {engine.settings[name]} where the driver has {value}; {_SHARED}")
    return engine


def _environment(engine: TransformersEngine, _: Event) -> dict[str, Json]:
    return engine.environment


def _moved(alpha: float, engine: TransformersEngine, _: Event) -> None:
    engine.move(alpha)


def _rested(engine: TransformersEngine, *_: object) -> None:
    engine.rest()


def _replies(
    alpha: float, batches: Sequence[Sequence[Request]], engine: TransformersEngine, abandoned: Event
) -> list[list[Reply]]:
    return list(engine.generate(alpha, batches, abandoned=abandoned))


def _read(alpha: float, batch: Sequence[Text], engine: TransformersEngine, _: Event) -> list[float]:
    [values] = engine.log_probabilities(alpha, [batch])
    return values
