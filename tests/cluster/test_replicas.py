"""What of replicas can be seen without a cluster: who gets how many threads, and what an actor does by itself."""

from pathlib import Path
from threading import Event, Thread

import pytest

import llm_expo
from llm_expo.cluster import replicas
from llm_expo.cluster.replicas import _Replica, gpus_each, threads_each
from llm_expo.errors import EngineError, ScorerError

HERE = Path.cwd()


@pytest.mark.parametrize(
    ("cores", "count", "threads"),
    [([8], 2, 4), ([8, 8], 2, 8), ([8, 8], 3, 4), ([8, 2], 2, 4), ([8, 1], 4, 2), ([1, 1], 3, 0), ([], 1, 0)],
)
def test_threads_of_each_replica(monkeypatch, cores, count, threads):
    monkeypatch.setattr(replicas, "cores_of_nodes", lambda: cores)
    assert threads_each(count) == threads


def test_gpus_of_each_replica(monkeypatch):
    monkeypatch.setattr(replicas, "gpus_of_nodes", lambda: [2, 0, 1])
    assert [gpus_each(count) for count in (1, 3, 4)] == [1, 1, 0]


def replica(make=lambda: "engine", version=llm_expo.__version__):
    return _Replica(version, HERE, make, EngineError)


def test_a_job_is_called_with_what_was_made():
    made = replica()
    assert made.start() is None
    assert made.ask(1, lambda engine, abandoned: (engine, abandoned.is_set())) == ("engine", False)


def test_one_that_was_restarted_unseen_makes_it_again():
    assert replica().ask(7, lambda engine, _: engine) == "engine"


def test_errors_are_returned():
    def fails(*_):
        raise ScorerError("no such luck")

    error = replica().ask(1, fails)
    assert (type(error), str(error)) == (ScorerError, "no such luck")
    for error in (replica(fails).start(), replica(fails).ask(1, print)):
        assert type(error) is EngineError
        assert str(error).startswith("node ") and str(error).endswith(": no such luck")
    assert f"has llm-expo {llm_expo.__version__}, the driver 9.9; install" in str(replica(version="9.9").start())


def test_an_abandoned_job_hears_of_it():
    """While it is under way, and also where word of it comes before its turn; the next job does not."""
    made, begun, answers = replica(), Event(), []

    def job(_, abandoned):
        begun.set()
        return abandoned.wait(60)

    thread = Thread(target=lambda: answers.append(made.ask(1, job)))
    thread.start()
    begun.wait(60)
    made.abandon(1)
    thread.join()
    made.abandon(2)
    answers.append(made.ask(2, lambda _, abandoned: abandoned.is_set()))
    answers.append(made.ask(3, lambda _, abandoned: abandoned.is_set()))
    assert answers == [True, True, False]
