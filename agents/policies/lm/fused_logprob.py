"""Log-probabilities of tokens straight from hidden states, without a [tokens, vocabulary] tensor.

The output layer is applied to some rows at a time, and again in the backward pass: memory for a whole vocabulary is
needed for those rows only, at the price of one more product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Process = Callable[[Tensor, slice], Tensor]
"""Returns the float32 logits [m, V] that tokens are sampled from, given the model's logits [m, V] of some rows:
divided by the temperature, -inf where a token can't be sampled. The model's logits may be overwritten."""

_CPU_ROWS = 128
"""Rows whose logits are held at a time on the CPU: with fewer, reading the layer takes longer than its product."""
_CELLS = 2**26
"""Logits that are held at a time elsewhere."""


def fused_logprob(hidden: Tensor, weight: Tensor, tokens: Tensor, process: Process, temperature: float) -> Tensor:
    """Returns [M] nats float32: log softmax(process(hidden weight^T))[tokens], differentiable.

    Args:
        hidden: [M, d] last hidden states.
        weight: [V, d] matrix of the output layer.
        tokens: [M] the tokens.
        process: how the model's logits become those that are sampled from.
        temperature: by which `process` divides.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    result: Any = _FusedLogprob.apply(hidden, weight, tokens, process, temperature)
    return result


class _FusedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - torch declares *args
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, process: Process, temperature: float
    ) -> Tensor:
        log_total = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        chosen = torch.empty_like(log_total)
        for rows, raw in _logits(hidden, weight):
            logits = process(raw, rows)
            chosen[rows] = logits.gather(1, tokens[rows, None]).squeeze(1)
            largest = logits.amax(1)
            log_total[rows] = _exp(logits, largest).sum(1).log_().add_(largest)
        ctx.save_for_backward(hidden, weight, tokens, log_total)
        ctx.process, ctx.temperature = process, temperature
        return chosen - log_total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, tokens, log_total = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows, raw in _logits(hidden, weight):
            # d log p(token) / d logits = (one-hot(token) - p) / temperature
            scale = grad[rows, None] / ctx.temperature
            slope = _exp(ctx.process(raw, rows), log_total[rows]).mul_(-scale)
            slope = slope.scatter_add_(1, tokens[rows, None], scale).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[rows])
            if grad_weight is not None and grad_weight.dtype == hidden.dtype:
                grad_weight.addmm_(slope.T, hidden[rows])  # without fresh memory for a whole product
            elif grad_weight is not None:
                grad_weight += slope.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _exp(logits: Tensor, shift: Tensor) -> Tensor:
    """Returns exp(logits - shift) of logits [m, V] and shift [m], in place."""
    return logits.sub_(shift[:, None]).exp_()


def _logits(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields parts of the M rows and their logits [m, V], always in the same memory: fresh memory costs page faults."""
    most = _CPU_ROWS if hidden.device.type == "cpu" else _CELLS // len(weight)
    size = max(1, min(len(hidden), most))
    memory = hidden.new_empty(size, len(weight))
    for start in range(0, len(hidden), size):
        part = hidden[start : start + size]
        yield slice(start, start + size), torch.mm(part, weight.T, out=memory[: len(part)])
