"""A short name for a checkpoint's weights: equal for a copy elsewhere, different for another training step."""

import hashlib
import os

from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import open_regular, read_exactly

_BYTES_A_TENSOR = 512


def fingerprint(checkpoint: Checkpoint) -> str:
    """16 hexadecimal digits over all headers and the first bytes of every tensor; reads next to nothing.

    Two checkpoints that differ only behind the first 512 bytes of each of their tensors are taken for one. Raises
    CheckpointError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for shard in checkpoint.shards:
        # A pickle's header is not there to be read: what it would say.
        described = [(tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors]
        digest.update(shard.header or repr(described).encode())
        fd = open_regular(shard.path)
        try:
            for tensor in shard.tensors:
                start = bytearray(min(_BYTES_A_TENSOR, tensor.nbytes))
                read_exactly(fd, memoryview(start), tensor.start, shard.path)
                digest.update(start)
        finally:
            os.close(fd)
    return digest.hexdigest()[:16]
