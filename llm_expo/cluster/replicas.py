"""Replicas of something on a Ray cluster, an actor each: the crew of a dispatcher.

What there are replicas of (an engine, a scorer) is made in the actor, by a function; a job is a function of it.
"""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import llm_expo
from llm_expo.cluster.connection import cores_of_nodes, gpus_of_nodes
from llm_expo.cluster.dispatch import Call, Lost
from llm_expo.errors import ExpoError

Make = Callable[[], Any]

_RESTARTS = 5
"""Of each replica: processes and nodes are lost now and then, but what always dies must not go on for ever."""


class Replicas:
    """A replica for each of `makes`, as far from each other as the cluster allows.

    A job is called with what the replica's `make` returned, and with an event that is set when nobody waits for the
    answer any more. It should raise nothing but ExpoErrors. A replica that dies is made again, by Ray, on any node.

    Needs a connection (`connected`).

    Args:
        cpus, gpus: of each replica, as Ray counts them; see `threads_each` and `gpus_each`.
        failure: the error for a node that cannot do what it is to do.
    """

    def __init__(self, makes: Sequence[Make], *, cpus: int, gpus: int, failure: type[ExpoError]) -> None:
        import ray

        actor = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=_RESTARTS,
            scheduling_strategy="SPREAD",
            concurrency_groups={"aside": 1},
        )(_Replica)
        self._actors = [actor.remote(llm_expo.__version__, Path.cwd(), make, failure) for make in makes]
        self._asked = [0] * len(makes)
        self._failure = failure

    def start(self, worker: int) -> Call:
        # Ray asks again, and so waits for, an actor that is about to be restarted.
        call: Call = self._actors[worker].start.options(max_task_retries=-1).remote()
        return call

    def ask(self, worker: int, job: Any) -> Call:
        self._asked[worker] += 1
        call: Call = self._actors[worker].ask.remote(self._asked[worker], job)
        return call

    def ended(self, calls: Collection[Call], timeout: float | None) -> Collection[Call]:
        import ray

        first, _ = ray.wait(list(calls), num_returns=1, timeout=timeout)
        return ray.wait(list(calls), num_returns=len(calls), timeout=0)[0] if first else ()

    def outcome(self, call: Call) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            outcome = ray.get(call)
        except RayTaskError as error:
            raise self._failure(
                f"a node failed: {_last_line(error)} (every node needs llm-expo {llm_expo.__version__})"
            ) from error
        except RayError as error:
            raise Lost(_last_line(error).partition(". ")[0]) from None
        if isinstance(outcome, ExpoError):
            raise outcome
        return outcome

    def abandon(self, worker: int) -> None:
        import ray

        if ray.is_initialized():  # a generator may be closed as late as when everything ends
            self._actors[worker].abandon.options(concurrency_group="aside").remote(self._asked[worker])

    def end(self) -> None:
        """End all replicas, whatever they are at."""
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)


def threads_each(replicas: int) -> int:
    """The most threads that so many replicas can have each, all on one cluster; 0 where it has too few cores."""
    cores = cores_of_nodes()
    fitting = (
        threads for threads in range(max(cores, default=0), 0, -1) if sum(n // threads for n in cores) >= replicas
    )
    return next(fitting, 0)


def gpus_each(replicas: int) -> int:
    """1 where the cluster has a GPU for each of so many replicas, else 0."""
    return int(sum(gpus_of_nodes()) >= replicas)


class _Replica:
    """Lives on some node. Errors are returned: one that is raised and not asked for is logged by Ray."""

    def __init__(self, version: str, folder: Path, make: Make, failure: type[ExpoError]) -> None:
        self._version = version
        self._folder = folder
        self._make = make
        self._failure = failure
        self._made: Any = None
        self._at: tuple[int, Event] = (0, Event())
        self._abandoned = 0

    def start(self) -> ExpoError | None:
        from ray.util import get_node_ip_address

        node = get_node_ip_address()
        if llm_expo.__version__ != self._version:
            return self._failure(
                f"node {node} has llm-expo {llm_expo.__version__}, the driver {self._version}; install the same on all"
            )
        with suppress(OSError):
            os.chdir(self._folder)
        try:
            self._made = self._make()
        except ExpoError as error:
            return self._failure(f"node {node}: {error}")
        return None

    def ask(self, number: int, job: Callable[[Any, Event], Any]) -> Any:
        self._at = (number, Event())
        if number <= self._abandoned:
            self._at[1].set()
        if self._made is None and (error := self.start()) is not None:  # it died while nothing was asked of it
            return error
        try:
            return job(self._made, self._at[1])
        except ExpoError as error:
            return error

    def abandon(self, number: int) -> None:
        """All jobs up to the one of this number."""
        self._abandoned = number
        at, event = self._at
        if at <= number:
            event.set()


def _last_line(error: Exception) -> str:
    *_, last = str(error).strip().splitlines()  # above it stands the traceback
    return last.strip()
