"""A deterministic solver for small smooth problems: L-BFGS with a backtracking line search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

_SUFFICIENT = 1e-4
_HISTORY = 20
_ROUNDING = 1e-9
_HALVINGS = 20


def minimise(
    loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], tolerance: float = 1e-10, limit: int = 200
) -> tuple[float, float]:
    """Moves the parameters to a minimum of the loss.

    Nocedal & Wright 2006, Algorithm 7.5. `torch.optim.LBFGS` stops at absolute thresholds (1e-10 in y's curvature)
    that a small loss meets long before its minimiser is exact; here every test is relative. Where the loss no
    longer tells two points apart, a smaller gradient does (as in Hager & Zhang 2005, the approximate Wolfe condition).

    Args:
        loss: computes the scalar loss, leaves its gradients in the parameters, and returns it without a graph.
        parameters: what is moved.
        tolerance: ends when the gradient's norm has fallen by this factor.
        limit: iterations at most.

    Returns:
        The loss where it began, and the gradient's norm where it ended.
    """
    point = parameters_to_vector(parameters).detach()
    first = value = loss()
    gradient = _gradient(parameters)
    goal = tolerance * gradient.norm()
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_HISTORY)
    for _ in range(limit):
        if gradient.norm() <= goal:
            break
        direction = -_inverse_hessian(gradient, pairs)
        slope = gradient.dot(direction)
        step = 1.0 if pairs else min(1.0, 1 / gradient.norm().item())
        for _ in range(_HALVINGS):
            _assign(parameters, point + step * direction)
            trial, bent = loss(), _gradient(parameters)
            level = trial <= value + _ROUNDING * value.abs() and bent.norm() < gradient.norm()
            if level or trial <= value + _SUFFICIENT * step * slope:
                break
            step = step / 2
        else:
            _assign(parameters, point)
            break
        change, curvature = step * direction, bent - gradient
        point, value, gradient = point + change, trial, bent
        if curvature.dot(change) > 0:
            pairs.append((change, curvature))
    return first.item(), gradient.norm().item()


def _inverse_hessian(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Applies the inverse Hessian that the last changes of point and gradient imply."""
    if not pairs:
        return gradient
    vector, taken = gradient, []
    for change, curvature in reversed(pairs):
        amount = change.dot(vector) / curvature.dot(change)
        vector = vector - amount * curvature
        taken.append(amount)
    change, curvature = pairs[-1]
    vector = vector * (change.dot(curvature) / curvature.dot(curvature))
    for (change, curvature), amount in zip(pairs, reversed(taken), strict=True):
        vector = vector + (amount - curvature.dot(vector) / curvature.dot(change)) * change
    return vector


def _gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])


def _assign(parameters: Sequence[nn.Parameter], values: Tensor) -> None:
    with torch.no_grad():
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))
