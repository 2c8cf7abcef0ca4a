"""The log-probability of what was written, straight from hidden states: no [tokens, vocabulary] is ever held.

The output layer is applied to a few rows at a time, whose scores stay in a processor's cache, and again in the backward
pass: memory for a whole vocabulary is paid for those rows alone, at the price of one more product with the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Score = Callable[[Tensor, slice], Tensor]
"""Returns the scores [m, V] float32 that some rows' logits [m, V] stand for: divided by the temperature, -inf where
nothing can be drawn. The logits need not last."""

_CELLS = {"cpu": 2**20, "cuda": 2**26}
"""Scores that are held at once."""


@contextmanager
def fused(head: nn.Linear, written: Tensor, score: Score, temperature: float) -> Iterator[None]:
    """Makes an output layer return the log-probability [M, 1] of a token after each hidden state, inside the block.

    Args:
        head: the output layer, without a bias.
        written: [M] the tokens.
        score: what logits stand for.
        temperature: by which `score` divides.
    """

    def forward(input: Tensor) -> Tensor:
        weight = head.weight
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight = input.to(dtype), weight.to(dtype)
        found: Any = _WrittenLogprob.apply(input, weight, written, score, temperature)
        return found

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


@torch.no_grad()
def is_plain(model: Any) -> bool:
    """Returns whether a model's logits are one product of its last hidden states, and nothing is done to them after.

    Some are capped or scaled (Gemma 2, Cohere, Granite), and an output layer may have a bias or an adapter.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    put = torch.linspace(-50, 50, len(head.weight), device=model.device, dtype=head.weight.dtype)[None, None]
    handle = head.register_forward_hook(lambda *_: put)
    try:
        logits = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False).logits
    finally:
        handle.remove()
    return torch.equal(put.to(logits), logits)


class _WrittenLogprob(torch.autograd.Function):
    """log softmax(score(hidden weight^T))[written], [M, 1]."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - torch declares *args
        ctx: Any, hidden: Tensor, weight: Tensor, written: Tensor, score: Score, temperature: float
    ) -> Tensor:
        total = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        chosen = torch.empty_like(total)
        for rows, logits in _logits(hidden, weight):
            scores = score(logits, rows)
            chosen[rows] = scores.gather(1, written[rows, None]).squeeze(1)
            largest = scores.amax(1)
            total[rows] = score_law(scores, largest).sum(1).log_().add_(largest)
        ctx.save_for_backward(hidden, weight, written, total)
        ctx.score, ctx.temperature = score, temperature
        return chosen[:, None] - total[:, None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, written, total = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows, logits in _logits(hidden, weight):
            scale = grad[rows] / ctx.temperature
            slope = score_law(ctx.score(logits, rows), total[rows]).mul_(-scale)
            slope = slope.scatter_add_(1, written[rows, None], scale).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def score_law(scores: Tensor, total: Tensor) -> Tensor:
    """Returns exp(scores - total) of scores [m, V] and [m], in place."""
    return scores.sub_(total[:, None]).exp_()


def _logits(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields parts of the M rows and their logits [m, V], always in the same memory: a new one would cost its pages."""
    size = max(1, min(len(hidden), _CELLS.get(hidden.device.type, 2**26) // len(weight)))
    memory = hidden.new_empty(size, len(weight))
    for start in range(0, len(hidden), size):
        part = hidden[start : start + size]
        yield slice(start, start + size), torch.mm(part, weight.T, out=memory[: len(part)])
