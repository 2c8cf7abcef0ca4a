"""A cache of keys and values in preallocated memory: a new token copies none of the old ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [R, H, T, d], the first T places of a larger memory.

    Args:
        room: tokens that fit before it is reallocated.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._memory: tuple[Tensor, Tensor] | None = None
        self._place: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds new tokens; returns all of them.

        Under autocast they are kept as attention reads them: it would round all of the cache at every token.
        """
        if torch.is_autocast_enabled(key_states.device.type):
            dtype = torch.get_autocast_dtype(key_states.device.type)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        if self._memory is not None and self._place is not None:
            for memory, states in zip(self._memory, (key_states, value_states), strict=True):
                memory.index_copy_(2, self._place, states)
            return self._memory
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        total = seen + key_states.shape[-2]
        if self._memory is None or total > self._memory[0].shape[-2]:
            room = max(total, self._room)
            self._memory = _moved(self.keys, key_states, seen, room), _moved(self.values, value_states, seen, room)
        keys, values = self._memory
        keys[:, :, seen:total] = key_states
        values[:, :, seen:total] = value_states
        self.keys, self.values = keys[:, :, :total], values[:, :, :total]
        return self.keys, self.values

    def fix(self, place: Tensor) -> None:
        """Has one token at a time written at `place` [1] from now on, and all of the memory read: no shape changes.

        What lies behind the tokens is 0: a mask hides it, and would not hide what is no number.
        """
        seen = self.get_seq_length()
        assert self._memory is not None
        for memory in self._memory:
            memory[:, :, seen:] = 0
        self._place = place
        self.keys, self.values = self._memory

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps some rows; those that are named twice are doubled."""
        if self._memory is None:
            return
        seen = self.get_seq_length()
        moved = []
        for memory in self._memory:
            after = memory.new_empty(len(beam_idx), *memory.shape[1:])
            torch.index_select(memory[:, :, :seen], 0, beam_idx, out=after[:, :, :seen])
            moved.append(after)
        self._memory = moved[0], moved[1]
        self.keys, self.values = moved[0][:, :, :seen], moved[1][:, :, :seen]


def _moved(seen: Tensor | None, like: Tensor, count: int, room: int) -> Tensor:
    """Returns a memory for `room` tokens [R, H, room, d] that begins with the `count` seen ones."""
    memory = like.new_empty(*like.shape[:2], room, like.shape[3])
    if count and seen is not None:
        memory[:, :, :count] = seen
    return memory


def roomy_cache(model: Any, room: int) -> DynamicCache:
    """Returns an empty cache for a model; layers with a sliding window keep transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
