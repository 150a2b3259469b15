"""What lies on disk: a model folder, its tensors, and the files beside them. Tensors are read a chunk at a time.

    Checkpoint      a model folder, seen through its safetensors headers
    Tensor          where one of its tensors lies
    fingerprint     a short name for a checkpoint's weights

Knows nothing of a second checkpoint, of alpha, text or rewards. Importing this loads nothing heavy.
"""

from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.fingerprint import fingerprint
from llm_expo.checkpoints.header import Shard, Tensor

__all__ = ["Checkpoint", "Shard", "Tensor", "fingerprint"]
