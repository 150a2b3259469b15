"""Batches cut into parts, which some threads compute at once; each batch comes back whole and in its order.

A part is what is computed together, so it depends on its batch alone: neither on the number of threads nor on what else
is waiting. Knows no models: what is computed is the caller's.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_parts(
    batches: Iterable[Sequence[A]],
    compute: Callable[[Sequence[A], threading.Event], Sequence[B]],
    *,
    parted: Callable[[Sequence[A]], Sequence[Sequence[int]]],
    workers: int,
    start: Callable[[], object] = lambda: None,
    abandoned: threading.Event | None = None,
) -> Iterator[list[B]]:
    """What `compute` makes of each batch, batch by batch.

    Args:
        batches: taken from as there is a thread to compute them, a little ahead of what is asked for.
        compute: one answer to each of a part; should end soon with any error once the event is set, as it is when
            nobody waits for the rest.
        parted: a batch's parts, as the places of their elements.
        workers: threads.
        start: called once in each thread before anything else.
        abandoned: the event that `compute` is given, for whoever has to set it while this waits for an answer.
    """
    abandoned = abandoned or threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="llm-expo", initializer=start)
    waiting: deque[list[tuple[Sequence[int], Future[Sequence[B]]]]] = deque()
    source = iter(batches)
    try:
        while True:
            while sum(not future.done() for parts in waiting for _, future in parts) < 2 * workers:
                batch = next(source, None)
                if batch is None:
                    break
                waiting.append(
                    [
                        (places, pool.submit(compute, [batch[place] for place in places], abandoned))
                        for places in parted(batch)
                    ]
                )
            if not waiting:
                return
            answers = [
                answer for places, future in waiting.popleft() for answer in zip(places, future.result(), strict=True)
            ]
            yield [answer for _, answer in sorted(answers, key=lambda answer: answer[0])]
    finally:
        abandoned.set()
        pool.shutdown(cancel_futures=True)


def cut(sizes: Sequence[int], most: int | None) -> list[list[int]]:
    """Places of `sizes`, the largest first, in as few parts as hold at most `most` each, all of about one size."""
    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    count = -(-len(sizes) // most) if most else 1
    bounds = [len(sizes) * part // count for part in range(count + 1)]
    return [order[start:end] for start, end in pairwise(bounds)]
