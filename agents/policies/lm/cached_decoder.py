"""Reads prompts once and then writes token by token, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.policies.lm.scoring import Root

_CACHES = "cache", "past_key_values"
"""Names of the argument that is the cache: transformers renamed it, and code that a checkpoint brings along did not."""


@dataclass(frozen=True)
class Arguments:
    """What a model's forward pass takes beside tokens and a mask.

    Attributes:
        cache: the name by which it takes a cache of keys and values.
        positions: whether it takes `position_ids`.
        last_only: whether it takes `logits_to_keep`.
    """

    cache: str
    positions: bool
    last_only: bool


@torch.no_grad()
def arguments_of(model: Any) -> Arguments:
    """Tries what a model's forward pass takes: its signature may be a wrapper's, and need not name all that it takes.

    Raises:
        ValueError: if it fills no cache of keys and values.
    """
    from agents.policies.lm.kv_cache import roomy_cache

    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    places = {"position_ids": torch.arange(2, device=model.device)[None]}
    last = {"logits_to_keep": 1}

    def fills(name: str, options: dict[str, Any]) -> bool:
        cache = roomy_cache(model, 2)
        try:
            model(input_ids=ids, use_cache=True, **{name: cache}, **options)
        except TypeError:  # an unknown argument; or it is taken and handed on to what does not know it
            return False
        return any(getattr(layer, "keys", None) is not None for layer in cache.layers) and cache.get_seq_length() == 2

    for name in _CACHES:
        if fills(name, places | last):
            return Arguments(name, True, True)
        if fills(name, {}):
            return Arguments(name, fills(name, places), fills(name, last))
    raise ValueError(
        f"'{model.name_or_path}': {type(model).__name__} fills no cache of keys and values, by which responses are "
        f"written token by token; take a transformer"
    )


class CachedReader:
    """Responses under way from one model, a `Reader`.

    Args:
        root: of a causal language model.
        takes: the arguments of its forward pass.
        prompts: prompts in tokens; equal ones are read once.
        score: makes the next token's scores of its logits [R, V] and the states [R].
        room: tokens of a response that are made room for.
        autocast: whether forward passes run under bfloat16 autocast.
    """

    def __init__(
        self,
        root: Root,
        takes: Arguments,
        prompts: Sequence[tuple[int, ...]],
        score: Callable[[Tensor, Tensor], Tensor],
        room: int,
        autocast: bool = False,
    ) -> None:
        from agents.policies.lm.kv_cache import roomy_cache

        model = root.model
        self._root, self._takes, self._score, self._autocast = root, takes, score, autocast
        distinct = list(dict.fromkeys(prompts))
        width = max(map(len, distinct))
        self._cache = roomy_cache(model, width + room)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in distinct], device=model.device)
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=model.device)
        self._mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        self._padded = bool((lengths < width).any())
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._forward(ids, **({"logits_to_keep": 1} if takes.last_only else {}))
        if len(distinct) < len(prompts):
            place = {prompt: i for i, prompt in enumerate(distinct)}
            self.keep(torch.tensor([place[prompt] for prompt in prompts], device=model.device))

    def scores(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32."""
        return self._score(self._logits, states)

    def append(self, tokens: Tensor) -> None:
        """Writes one more token [R] to every response."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._positions = self._positions[:, -1:] + 1
        self._forward(tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        """Forgets all responses but these; a row that is named twice is doubled."""
        self._cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType] - any device's index will do
        self._logits, self._mask, self._positions = self._logits[rows], self._mask[rows], self._positions[rows]

    def _forward(self, ids: Tensor, **options: Any) -> None:
        if self._padded:
            options["attention_mask"] = self._mask
        if self._takes.positions:
            options["position_ids"] = self._positions
        options[self._takes.cache] = self._cache
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=self._autocast):
            self._logits = self._root(_last_logits, {"input_ids": ids, **options})


def _last_logits(model: Any, options: dict[str, Any]) -> Tensor:
    return model(use_cache=True, **options).logits[:, -1]
