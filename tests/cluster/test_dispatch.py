"""The dispatcher on a crew without Ray: who works, who dies, and in which order calls end is the test's to say."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_expo.cluster.dispatch import Dispatcher, Lost
from llm_expo.errors import EngineError


class Crew:
    """Answers a job with itself, as text, and ends calls one by one in a random order.

    `deaths`: how many workers die at a job; a job "bad" is an EngineError, and if `refused` every start is one.
    `stillborn` never start, and nobody starts more than `restarts` times.
    """

    def __init__(self, chance=None, deaths=None, stillborn=(), restarts=1000, refused=False):
        self.chance = chance or random.Random(0)
        self.deaths = Counter(deaths)
        self.stillborn = set(stillborn)
        self.starts_left = Counter()
        self.restarts = restarts
        self.refused = refused
        self.asked = []  # (worker, job)
        self.at = {}  # call -> (worker, job)
        self.abandoned = []
        self.timeouts = []
        self.numbers = itertools.count()

    def start(self, worker):
        return self._call(worker, None)

    def ask(self, worker, job):
        assert worker not in [busy for busy, _ in self.at.values()], "asked two things at once"
        self.asked.append((worker, job))
        return self._call(worker, job)

    def _call(self, worker, job):
        call = next(self.numbers)
        self.at[call] = (worker, job)
        return call

    def ended(self, calls, timeout):
        self.timeouts.append(timeout)
        assert set(calls) <= set(self.at)
        if timeout == 0 and self.chance.random() < 0.7:
            return []
        return [self.chance.choice(sorted(calls))]

    def outcome(self, call):
        worker, job = self.at.pop(call)
        if job is None:
            self.starts_left[worker] += 1
            if self.refused:
                raise EngineError("node 3: does not see it")
            if worker in self.stillborn or self.starts_left[worker] > self.restarts:
                raise Lost("no process")
            return None
        if self.deaths[job]:
            self.deaths[job] -= 1
            raise Lost(f"killed at {job}")
        if job == "bad":
            raise EngineError("it is bad")
        return str(job)

    def abandon(self, worker):
        self.abandoned.append(worker)


def dispatched(crew, workers=2):
    return Dispatcher(crew, workers, EngineError)


@given(
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.integers(0, 30),
    st.dictionaries(st.integers(0, 30), st.integers(0, 2)),
)
def test_each_answer_once_and_in_order_whatever_dies(chance, workers, jobs, deaths):
    crew = Crew(chance, deaths)
    dispatcher = dispatched(crew, workers)
    assert list(dispatcher.each(range(jobs))) == [str(job) for job in range(jobs)]
    assert Counter(job for _, job in crew.asked) == Counter({job: 1 + deaths.get(job, 0) for job in range(jobs)})
    assert list(dispatcher.each("ab")) == ["a", "b"]
    assert not crew.abandoned


def test_a_lost_job_is_asked_elsewhere_at_once(caplog):
    crew = Crew(deaths={0: 1})
    assert list(dispatched(crew, 3).each(range(6))) == list("012345")
    (first, _), (second, _) = (each for each in crew.asked if each[1] == 0)
    assert first != second
    assert f"replica {first} died and is started again: killed at 0" in caplog.text


def test_jobs_are_begun_only_a_little_ahead():
    taken = []
    answers = dispatched(Crew(), 2).each(taken.append(job) or job for job in range(100))
    assert not taken
    next(answers)
    assert len(taken) <= 2 * 2 + 1


def test_no_jobs_need_no_worker():
    assert list(dispatched(Crew(stillborn={0, 1})).each([])) == []


def test_a_job_at_which_workers_die_ends_it():
    crew = Crew(deaths={2: 99})
    answers = dispatched(crew).each(range(5))
    assert [next(answers), next(answers)] == ["0", "1"]
    with pytest.raises(EngineError, match=r"replicas died 3 times at one and the same work, the last .*: killed at 2"):
        next(answers)
    assert sum(job == 2 for _, job in crew.asked) == 3


def test_who_does_not_start_is_left_out(caplog):
    crew = Crew(stillborn={0, 2})
    assert list(dispatched(crew, 3).each(range(5))) == list("01234")
    assert {worker for worker, _ in crew.asked} == {1}
    assert "replica 2 is left out: no process" in caplog.text


def test_when_all_are_gone():
    dispatcher = dispatched(Crew(deaths={3: 1, 4: 1}, restarts=1))
    answers = dispatcher.each(range(9))
    with pytest.raises(EngineError, match=r"^all 2 replicas are gone, the last one with: no process$"):
        list(answers)
    with pytest.raises(EngineError, match="all 2 replicas are gone"):
        dispatcher.spread("move")


def test_a_node_that_cannot_do_it_ends_it():
    dispatcher = dispatched(Crew(refused=True))
    for line in ("^node 3: does not see it$",) * 2 + ("^all 2 replicas are gone, the last one with: node 3: does not",):
        with pytest.raises(EngineError, match=line):
            list(dispatcher.each("a"))


def test_an_error_comes_behind_the_answers_before_it():
    """They were paid for. The others are abandoned, and the crew works on."""
    for seed in range(20):
        crew = Crew(random.Random(seed))
        dispatcher = dispatched(crew, 3)
        answers = dispatcher.each([0, 1, "bad", *range(3, 40)])
        assert [next(answers), next(answers)] == ["0", "1"]
        with pytest.raises(EngineError, match="it is bad"):
            next(answers)
        assert set(crew.abandoned) <= {worker for worker, job in crew.at.values() if job is not None}
        assert list(dispatcher.each("ab")) == ["a", "b"]
        assert list(answers) == []


def test_what_nobody_takes_is_abandoned_and_heard_by_nobody():
    crew = Crew(deaths={1: 1})
    dispatcher = dispatched(crew, 2)
    answers = dispatcher.each([0, 1, "bad", 3])
    next(answers)
    at_work = sorted(worker for worker, job in crew.at.values() if job is not None)
    answers.close()
    assert sorted(crew.abandoned) == at_work
    assert list(dispatcher.each("abc")) == ["a", "b", "c"]


def test_two_at_a_time_do_not_mix():
    dispatcher = dispatched(Crew(), 2)
    one, other = dispatcher.each(range(8)), dispatcher.each("abcdefgh")
    assert [*zip(one, other, strict=True)] == [*zip("01234567", "abcdefgh", strict=True)]


def test_spread_asks_all_who_are_free():
    crew = Crew()
    dispatcher = dispatched(crew, 4)
    assert dispatcher.spread("move") == ["move"] * len({worker for worker, _ in crew.asked})
    list(dispatcher.each(range(20)))
    while len(dispatcher._free) < 4:
        dispatcher._hear(None)
    crew.asked.clear()
    assert dispatcher.spread("move") == ["move"] * 4
    assert {worker for worker, _ in crew.asked} == {0, 1, 2, 3}


def test_a_cluster_without_room(caplog):
    class Full(Crew):
        def ended(self, calls, timeout):
            self.timeouts.append(timeout)
            return []

    crew = Full()
    with pytest.raises(EngineError, match="no replica started within 30 minutes; is there room in the cluster?"):
        list(dispatched(crew).each("a"))
    assert crew.timeouts == [0, 60, 1740]
    assert "no replica has started yet; is there room for one in the cluster?" in caplog.text
