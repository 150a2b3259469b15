"""Linear layers of a model on a CPU, multiplied from a copy of their weights in oneDNN's own layout.

As torch multiplies by default, it lays a matrix out anew at each product, which a few rows do not pay for: at 32 rows
and the head of a small model that is half of the time. Knows layers, no architectures; the parameters stay as they are.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

_ROWS = 32
"""The layout is chosen for as many rows; others are right, too, and about as fast."""


def pack(model: nn.Module) -> None:
    """Have every `nn.Linear` of `model` multiply by its weights as they are now; call it again when they change.

    Takes as much memory as the weights of those layers. Where torch lacks oneDNN, or oneDNN the type, nothing changes.
    """
    for module in model.modules():
        if type(module) is nn.Linear and _packable(module.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), _ROWS)
            module.forward = partial(_product, packed, module.weight, module.bias)  # type: ignore[method-assign]


def _product(packed: Tensor, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    if inputs.numel() == 0 or inputs.dtype != weight.dtype:
        return nn.functional.linear(inputs, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


def _packable(weight: Tensor) -> bool:
    supported: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: torch.backends.mkldnn.is_available,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype in supported and supported[weight.dtype]()
