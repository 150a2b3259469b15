"""All tensors of a checkpoint, read as the project reads them."""

import torch

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.reader import Buffer, Reader

_KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}


def tensors_of(checkpoint: Checkpoint, run: int | None = None) -> dict[str, torch.Tensor]:
    """Every tensor in float32, read in runs of that many elements."""
    found = {}
    with Reader(checkpoint.shards) as reader:
        for name, source in checkpoint.tensors.items():
            parts = [torch.empty(0)]
            for at in range(0, source.elements, run or source.elements or 1):
                count = min(run or source.elements, source.elements - at)
                view, dtype = reader.elements(source, at, count, Buffer(count * 8))
                parts.append(torch.frombuffer(bytearray(view), dtype=_KINDS[dtype]).float())
            found[name] = torch.cat(parts).reshape(source.shape)
    return found
