"""What is computed together depends on the batch alone, and comes back in order."""

import threading

import pytest

from llm_expo.generation.parts import Part, cut, in_parts


def in_twos(batch):
    return cut([len(element) for element in batch], 2)


def test_a_batch_is_cut_by_size_into_even_parts():
    assert cut([3, 9, 1, 7, 5], 2) == [Part([1]), Part([3, 4]), Part([0, 2])]
    assert cut([3, 9, 1], None) == [Part([1, 0, 2])]
    assert [len(part.places) for part in cut([0] * 100, 32)] == [25] * 4
    assert cut([0] * 5, 5) == [Part([0, 1, 2, 3, 4])]
    assert cut([3, 9, 1], 5, fewest=2) == [Part([1]), Part([0, 2])]
    assert cut([7], 5, fewest=2, threads=3) == [Part([0], 3)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parts_do_not_depend_on_the_workers(workers):
    seen = set()

    def compute(part, abandoned):
        seen.add(tuple(part))
        return [f"{element}!" for element in part]

    batches = [["aaa", "b", "cc", "dddd"], ["e"], ["ff", "g", "hhh"]]
    answers = list(in_parts(batches, compute, parted=in_twos, workers=workers))
    assert answers == [[f"{element}!" for element in batch] for batch in batches]
    assert seen == {("dddd", "aaa"), ("cc", "b"), ("e",), ("hhh",), ("ff", "g")}
    assert list(in_parts([], compute, parted=in_twos, workers=workers)) == []


def test_parts_that_want_several_threads_are_fewer_at_once():
    lock, running, most, told = threading.Lock(), set(), 0, []

    def compute(part, abandoned):
        nonlocal most
        with lock:
            running.add(part[0])
            most = max(most, len(running))
        abandoned.wait(0.02)
        with lock:
            running.discard(part[0])
        return part

    batches = [[number] for number in range(12)]
    answers = in_parts(
        batches, compute, parted=lambda batch: [Part([0], 3)], workers=6, ready=lambda own: told.append(own)
    )
    assert list(answers) == batches
    assert most == 2
    assert told == [3] * 12


def test_an_error_ends_the_rest():
    begun, ended = threading.Event(), threading.Event()

    def compute(part, abandoned):
        if part == ["bad"]:
            assert begun.wait(60)
            raise ValueError("of bad")
        begun.set()
        ended_in_time = abandoned.wait(60)
        ended.set()
        assert ended_in_time
        return part

    with pytest.raises(ValueError, match="of bad"):
        list(in_parts([["bad"], ["slow"]], compute, parted=in_twos, workers=2))
    assert ended.is_set()


def test_who_stops_asking_stops_the_work():
    def compute(part, abandoned):
        if part != ["first"]:
            assert abandoned.wait(60)
        return part

    answers = in_parts([["first"], ["second"], ["third"]], compute, parted=in_twos, workers=2)
    assert next(answers) == ["first"]
    answers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("llm-expo")]


def test_batches_are_taken_as_they_are_wanted():
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield [number]

    answers = in_parts(batches(), lambda part, _: part, parted=lambda batch: cut([1] * len(batch), None), workers=1)
    next(answers)
    assert len(taken) < 100
    answers.close()
