"""Keys and values with room for the tokens to come.

transformers' own layer is laid out anew for each token, which on a CPU takes as long as half of the matrix products.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_GROWTH = 64
"""Columns of room: a layer is laid out anew once in as many tokens."""


def make_room(cache: DynamicCache) -> None:
    """Put a `RoomyLayer` in the place of each layer of `cache`, which is empty, that would keep every token."""
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]


class RoomyLayer(DynamicLayer):
    """As `DynamicLayer`; `keys` and `values`, (rows, heads, columns, size), are views of larger tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = _roomy(self.keys, key_states, end), _roomy(self.values, value_states, end)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None


def _roomy(held: Tensor | None, coming: Tensor, columns: int) -> Tensor:
    """A tensor of the kind of `coming` that starts with `held` and has room for some more than `columns`."""
    rows, heads, _, size = coming.shape
    room = torch.empty((rows, heads, columns + _GROWTH, size), dtype=coming.dtype, device=coming.device)
    if held is not None and held.numel():
        room[..., : held.shape[-2], :] = held
    return room
