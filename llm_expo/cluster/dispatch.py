"""Jobs given to whichever worker is free, answers in the order of the jobs; a job whose worker died is asked again.

Knows neither Ray nor what a job is: workers are numbers, and the crew does the asking.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from llm_expo.errors import ExpoError

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Answer = TypeVar("Answer")

Call = Hashable
"""Stands for what a worker was asked and has not answered yet."""

_DEATHS = 3
"""Workers that may die at one job: a job that takes down whoever works at it must not go on for ever."""

_AHEAD = 2
"""Jobs begun for each worker while the first unanswered one is waited for."""

_REMIND, _GIVE_UP = 60.0, 1800.0
"""Seconds without any worker; a large model may take long to start, and a cluster that grows, too."""


class Lost(Exception):
    """The worker died before it could answer; the message says of what."""


class Crew(Protocol):
    """The workers, by number. No worker is asked two things at once."""

    def start(self, worker: int) -> Call:
        """Have a worker made ready for jobs, for the first time or after it died."""

    def ask(self, worker: int, job: Any) -> Call:
        """Have a job done."""

    def ended(self, calls: Collection[Call], timeout: float | None) -> Collection[Call]:
        """Those of the calls that have ended; waits for the first one, for so many seconds at most."""

    def outcome(self, call: Call) -> Any:
        """What a call that has ended returned. Raises Lost, or the ExpoError that the worker met with."""

    def abandon(self, worker: int) -> None:
        """Nobody waits for the job that the worker is at: it should end soon, however it likes."""


@dataclass(eq=False, slots=True)
class _Errand(Generic[Job, Answer]):
    """The jobs of one `each`, by their places."""

    lost: list[tuple[int, Job]] = field(default_factory=list)  # a heap
    deaths: Counter[int] = field(default_factory=Counter)
    answers: dict[int, Answer | ExpoError] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Asked(Generic[Job, Answer]):
    errand: _Errand[Job, Answer]
    place: int
    job: Job


class Dispatcher(Generic[Job, Answer]):
    """A crew of so many workers, all of which it starts.

    Args:
        failure: makes the error for the user where it is the dispatcher that gives up.
    """

    def __init__(self, crew: Crew, workers: int, failure: Callable[[str], ExpoError]) -> None:
        self._crew = crew
        self._workers = workers
        self._failure = failure
        self._free: list[int] = []
        self._last_death = ""
        # what each call is about: the worker and its job, or None for a start
        self._calls: dict[Call, tuple[int, _Asked[Job, Answer] | None]] = {}
        for worker in range(workers):
            self._start(worker)

    def each(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """The answer to each job, in order, each once. When nobody takes them any more, the jobs begun are abandoned.

        Raises:
            ExpoError: what a worker met with at its start, or at a job, once the answers before it have been given; or
                no worker is left, or workers died at a job again and again.
        """
        errand: _Errand[Job, Answer] = _Errand()
        source = enumerate(jobs)
        upcoming, given, begun = next(source, None), 0, 0
        try:
            while upcoming is not None or given < begun:
                self._hear(0)
                while self._free and errand.lost:
                    self._ask(errand, *heapq.heappop(errand.lost))
                while self._free and upcoming is not None and begun < given + _AHEAD * self._workers:
                    self._ask(errand, *upcoming)
                    upcoming, begun = next(source, None), begun + 1
                if given not in errand.answers:
                    self._wait()
                    continue
                answer = errand.answers.pop(given)
                if isinstance(answer, ExpoError):
                    raise answer
                given += 1
                yield answer
        finally:
            errand.over = True
            for worker, asked in self._calls.values():
                if asked is not None and asked.errand is errand:
                    self._crew.abandon(worker)

    def spread(self, job: Job) -> list[Answer]:
        """The answers of all workers that are free now, or of the first one to be free, to one and the same job."""
        self._hear(0)
        return list(self.each([job] * max(1, len(self._free))))

    # ----------------------------------------------------------------------------------------------------------------

    def _start(self, worker: int) -> None:
        self._calls[self._crew.start(worker)] = (worker, None)

    def _ask(self, errand: _Errand[Job, Answer], place: int, job: Job) -> None:
        worker = self._free.pop(0)
        self._calls[self._crew.ask(worker, job)] = (worker, _Asked(errand, place, job))

    def _wait(self) -> None:
        """Until some call has ended."""
        if not self._calls:
            raise self._failure(f"all {self._workers} replicas are gone, the last one with: {self._last_death}")
        at_work = any(asked is not None for _, asked in self._calls.values())
        if self._hear(None if at_work else _REMIND):
            return
        logger.warning("no replica has started yet; is there room for one in the cluster?")
        if not self._hear(_GIVE_UP - _REMIND):
            raise self._failure(f"no replica started within {_GIVE_UP / 60:.0f} minutes; is there room in the cluster?")

    def _hear(self, timeout: float | None) -> bool:
        """Take note of the calls that have ended; whether there were any."""
        ended = self._crew.ended(self._calls, timeout) if self._calls else ()
        for call in ended:
            worker, asked = self._calls.pop(call)
            try:
                answer = self._crew.outcome(call)
            except Lost as death:
                self._bury(worker, asked, str(death))
                continue
            except ExpoError as error:
                if asked is None:
                    self._last_death = str(error)
                    raise
                answer = error
            if asked is not None:
                asked.errand.answers[asked.place] = answer
            self._free.append(worker)
        return bool(ended)

    def _bury(self, worker: int, asked: _Asked[Job, Answer] | None, death: str) -> None:
        self._last_death = death
        if asked is None:
            logger.warning("replica %d is left out: %s", worker, death)
            return
        logger.warning("replica %d died and is started again: %s", worker, death)
        self._start(worker)
        errand = asked.errand
        if errand.over:
            return
        errand.deaths[asked.place] += 1
        if errand.deaths[asked.place] == _DEATHS:
            errand.answers[asked.place] = self._failure(
                f"replicas died {_DEATHS} times at one and the same work, the last time of: {death}"
            )
        else:
            heapq.heappush(errand.lost, (asked.place, asked.job))
