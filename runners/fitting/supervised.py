"""The training loop of models that judge or start a run: AdamW under a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def say(losses: Sequence[float]) -> None:
    """Prints the mean loss of every hundred steps."""
    if len(losses) % 100 == 0:
        print(f"  step {len(losses)}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)


def descend(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    after: Callable[[Sequence[float]], None] = say,
) -> float:
    """Minimises a loss that is drawn afresh at every step; returns its mean over the last tenth.

    Args:
        model: what learns, in place.
        loss_at: step -> scalar loss.
        steps: how many.
        learning_rate: the peak, after a linear warm-up over the first twentieth; a cosine takes it to zero.
        after: is told the losses of all steps so far, after each.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    losses: list[float] = []
    for step in range(steps):
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        after(losses)
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)
