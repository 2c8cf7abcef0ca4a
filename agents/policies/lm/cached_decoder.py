"""Reads prompts once and then writes token by token, with a cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class CachedReader:
    """Responses under way from one model, a `Reader`.

    Args:
        model: a causal language model.
        prompts: prompts in tokens; equal ones are read once.
        score: makes the next token's scores of its logits [R, V] and the states [R].
        room: tokens of a response that are made room for.
        autocast: whether forward passes run under bfloat16 autocast.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        score: Callable[[Tensor, Tensor], Tensor],
        room: int,
        autocast: bool = False,
    ) -> None:
        from agents.policies.lm.kv_cache import roomy_cache

        self._model, self._score, self._autocast = model, score, autocast
        takes = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in takes
        distinct = list(dict.fromkeys(prompts))
        width = max(map(len, distinct))
        self._cache = roomy_cache(model, width + room)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in distinct], device=model.device)
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=model.device)
        self._mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        self._padded = bool((lengths < width).any())
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._forward(ids, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {}))
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
        if self._takes_positions:
            options["position_ids"] = self._positions
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=self._autocast):
            output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, **options)
        self._logits = output.logits[:, -1]


def logits_before(
    model: Any, prompts: Sequence[tuple[int, ...]], responses: Sequence[Sequence[int]], autocast: bool = False
) -> Tensor:
    """Returns the logits before every response token in one forward pass over prompts and responses.

    Only these positions pass through the output layer, so that no [R, T, V] is made for prompts and padding.

    Args:
        model: a causal language model.
        prompts: R prompts in tokens.
        responses: R responses in tokens, M tokens in all.
        autocast: whether the pass runs under bfloat16 autocast.

    Returns:
        [M, V] row after row, differentiable.
    """
    rows = [[*prompt, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    wanted = [
        r * width + len(prompt) - 1 + t
        for r, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        for t in range(len(response))
    ]
    index = torch.tensor(wanted, device=model.device)

    def select(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0].flatten(0, -2).index_select(0, index), *inputs[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            return model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
