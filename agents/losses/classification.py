"""Losses of the margin as a binary classification: GPO's six functions, and DiscoPOP's blend of two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from agents.losses.shapes import require_one_shape

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 80.0
"""Exponents are kept below it, so that e^x is finite in float32."""

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda x: torch.nn.functional.softplus(-x),
    "exponential": lambda x: (-x).clamp(max=LARGEST).exp(),
    "squared": lambda x: (1 - x).square(),
    "truncated_quadratic": lambda x: (1 - x).relu().square(),
    "hinge": lambda x: (1 - x).relu(),
    "savage": lambda x: torch.sigmoid(-x).square(),
}
"""f of Tang et al. 2024, arXiv:2402.05749; f'(0) < 0, and all but savage are convex."""


def gpo(margin: Tensor, prob: Tensor, beta: float, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns f(beta margin) of the winner's margin (Tang et al. 2024, arXiv:2402.05749).

    Args:
        margin: [...] log-ratio of the first response minus the second's, nats.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.
        function: f, one of FUNCTIONS.

    Returns:
        [...] unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(margins=margin, prob=prob)
    return prob * function(beta * margin) + (1 - prob) * function(-beta * margin)


def discopop(margin: Tensor, prob: Tensor, beta: float, temperature: float) -> Tensor:
    """Returns the log-ratio modulated loss: logistic where the margin is wrong, exponential where it is right.

    Lu et al. 2024, arXiv:2406.08414, equation 5: (1 - sigma(x / tau)) log(1 + e^-x) + sigma(x / tau) e^-x, x = b h.

    Args:
        margin: [...] log-ratio of the first response minus the second's, nats.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.
        temperature: tau of the paper, positive.

    Returns:
        [...] unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes differ.
    """

    def blend(x: Tensor) -> Tensor:
        log_weight = torch.nn.functional.logsigmoid(x / temperature)
        return torch.sigmoid(-x / temperature) * torch.nn.functional.softplus(-x) + (log_weight - x).exp()

    return gpo(margin, prob, beta, blend)
