"""Batches cut into parts, which some threads compute at once; each batch comes back whole and in its order.

A part is what is computed together, so it depends on its batch alone: neither on the number of threads nor on what else
is waiting. Knows no models: what is computed is the caller's.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, pairwise
from typing import NamedTuple, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Part(NamedTuple):
    """Some of a batch's elements, by their places, and how many threads compute them."""

    places: list[int]
    threads: int = 1


def in_parts(
    batches: Iterable[Sequence[A]],
    compute: Callable[[Sequence[A], threading.Event], Sequence[B]],
    *,
    parted: Callable[[Sequence[A]], Sequence[Part]],
    workers: int,
    ready: Callable[[int], object] = lambda _: None,
    abandoned: threading.Event | None = None,
) -> Iterator[list[B]]:
    """What `compute` makes of each batch, batch by batch.

    Args:
        batches: taken from as there is a thread to compute them, a little ahead of what is asked for.
        compute: one answer to each of a part; should end soon with any error once the event is set, as it is when
            nobody waits for the rest.
        parted: a batch's parts.
        workers: threads, of which a part may want more than there are.
        ready: called before a part is computed, in the thread that does, with how many threads it wants.
        abandoned: the event that `compute` is given, for whoever has to set it while this waits for an answer.
    """
    event = abandoned or threading.Event()

    def computed(part: Part, elements: Sequence[A]) -> Sequence[B]:
        ready(part.threads)
        return compute(elements, event)

    source = ((batch, parted(batch)) for batch in batches)
    first = list(islice(source, 1))  # as the others are, but for the last
    most = max((part.threads for _, parts in first for part in parts), default=1)
    pool = ThreadPoolExecutor(max(workers // most, 1), thread_name_prefix="llm-expo")
    waiting: deque[list[tuple[Part, Future[Sequence[B]]]]] = deque()
    coming = chain(first, source)
    try:
        while True:
            while sum(not future.done() for parts in waiting for _, future in parts) < 2 * workers:
                batch, parts = next(coming, (None, []))
                if batch is None:
                    break
                waiting.append(
                    [(part, pool.submit(computed, part, [batch[place] for place in part.places])) for part in parts]
                )
            if not waiting:
                return
            answers = [
                answer
                for part, future in waiting.popleft()
                for answer in zip(part.places, future.result(), strict=True)
            ]
            yield [answer for _, answer in sorted(answers, key=lambda answer: answer[0])]
    finally:
        event.set()
        pool.shutdown(cancel_futures=True)


def cut(sizes: Sequence[int], most: int | None, fewest: int = 1, threads: int = 1) -> list[Part]:
    """The largest of `sizes` first, in as few parts as hold at most `most` each, all of about one size.

    fewest: parts, where there are so many elements.
    threads: of each part.
    """
    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    count = max(-(-len(sizes) // most) if most else 1, min(fewest, len(sizes)))
    bounds = [len(sizes) * part // count for part in range(count + 1)]
    return [Part(order[start:end], threads) for start, end in pairwise(bounds)]
