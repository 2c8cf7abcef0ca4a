"""The training loop of the embedded models: AdamW under a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def descend(model: nn.Module, loss_at: Callable[[int], Tensor], steps: int, learning_rate: float) -> float:
    """Minimises a loss that is drawn afresh at every step; returns its mean over the last tenth.

    Args:
        model: what learns, in place.
        loss_at: step -> scalar loss.
        steps: how many.
        learning_rate: the peak, after a linear warm-up over the first twentieth; a cosine takes it to zero.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    losses = []
    for step in range(steps):
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"  step {step + 1} of {steps}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)
