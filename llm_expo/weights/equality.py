"""Whether tensors hold the same numbers, of whatever types, read no farther than to the first difference."""

from collections.abc import Iterable

from llm_expo.checkpoints import Shard
from llm_expo.checkpoints.adapter import Update
from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.reader import CHUNK, Buffer, Reader
from llm_expo.weights.kernel import distance


def all_equal(shards: Iterable[Shard], pairs: Iterable[tuple[Source, Source]]) -> bool:
    """Whether each two float tensors of one shape are equal, number by number. What is not finite equals nothing.

    shards: the files that they are read from. Raises CheckpointError for one that cannot be read.
    """
    one, other = Buffer(), Buffer()
    with Reader(shards) as reader:
        for first, second in pairs:
            for at in range(0, first.elements, CHUNK):
                count = min(CHUNK, first.elements - at)
                found, bad = distance(
                    *reader.elements(first, at, count, one), *reader.elements(second, at, count, other)
                )
                if bad is not None or found.equal < count:
                    return False
    return True


def add_nothing(shards: Iterable[Shard], updates: Iterable[Update]) -> bool:
    """Whether each update is zero, as before training: one of its factors is, or its scale. Raises as `all_equal`."""
    buffer = Buffer()
    with Reader(shards) as reader:

        def is_zero(source: Source) -> bool:
            for at in range(0, source.elements, CHUNK):
                chunk = reader.elements(source, at, min(CHUNK, source.elements - at), buffer)
                found, bad = distance(*chunk, *chunk)
                if bad is not None or found.squared_initial:
                    return False
            return True

        # B first: it is the one that PEFT begins with zeros, but for embeddings.
        return all(not each.scale or is_zero(each.b) or is_zero(each.a) for each in updates)
