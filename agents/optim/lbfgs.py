"""A deterministic solver for small smooth problems: L-BFGS with a backtracking line search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

_SUFFICIENT = 1e-4
_HISTORY = 20
_ROUNDING = 1e-9
_HALVINGS = 20
_SIGNS = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))


def minimise(
    loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    curvature: Tensor | None = None,
    limit: int = 300,
) -> tuple[float, float]:
    """Moves the parameters to a minimum of the loss.

    Nocedal & Wright 2006, Algorithm 7.5. `torch.optim.LBFGS` stops at absolute thresholds (1e-10 in y's curvature)
    that a small loss meets long before its minimiser is exact; here every test is relative. Where the loss no
    longer tells two points apart, a smaller gradient does (as in Hager & Zhang 2005, the approximate Wolfe condition).

    Args:
        loss: computes the scalar loss, leaves its gradients in the parameters, and returns it without a graph.
        parameters: what is moved.
        curvature: [number of parameters] about the diagonal of the Hessian, positive: the solver works in variables
            of curvature 1, in which its tests and its result are measured. None: it takes the parameters as they are.
        limit: evaluations of the loss after which no new direction is taken.

    Returns:
        The loss where it began, and the gradient's norm where it ended: 4e-11 of what it was in float64, 2e-5 in
        float32, unless `limit` or rounding ended it.
    """
    scale = 1.0 if curvature is None else curvature.sqrt()
    point = torch.nn.utils.parameters_to_vector(parameters).detach()
    first = value = loss()
    gradient = _gradient(parameters) / scale
    goal = torch.finfo(gradient.dtype).eps ** (2 / 3) * gradient.norm()
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_HISTORY)
    asked = 1
    while gradient.norm() > goal and asked < limit:
        direction = -_inverse_hessian(gradient, pairs)
        slope = gradient.dot(direction)
        step = 1.0 if pairs or curvature is not None else min(1.0, 1 / gradient.norm().item())
        for _ in range(_HALVINGS):
            _assign(parameters, point + step * direction / scale)
            trial, bent = loss(), _gradient(parameters) / scale
            asked += 1
            level = trial <= value + _ROUNDING * value.abs() and bent.norm() < gradient.norm()
            if level or trial <= value + _SUFFICIENT * step * slope:
                break
            step = step / 2
        else:
            _assign(parameters, point)
            break
        change, bend = step * direction, bent - gradient
        idle = trial == value and not bend.any()  # below the parameters' rounding: all later steps would be the same
        point, value, gradient = point + change / scale, trial, bent
        if idle:
            break
        if bend.dot(change) > 0:
            pairs.append((change, bend))
    return first.item(), gradient.norm().item()


def squares_curvature(terms: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Estimates the diagonal of the Gauss-Newton Hessian of a sum of squares, from four backward passes.

    Bekas, Kokiopoulou & Saad 2007: the mean of (J's)^2 over vectors s of signs is the diagonal of J'J, here for four
    orthogonal ones. For a softmax it is nearly exact, which is what makes rare responses as easy as common ones. It is
    kept above its maximum times the rounding of the parameters' type, below which it would be noise.

    Args:
        terms: parts of the vector whose squares the loss sums (constants left out), with their graphs.
        parameters: P numbers in all.

    Returns:
        [P] positive.
    """
    sums: list[Tensor | float] = [0.0] * len(_SIGNS)
    for part in terms:
        terms_here = part.reshape(-1)
        for i, signs in enumerate(_SIGNS):
            pattern = torch.tensor(signs).to(terms_here).repeat(len(terms_here) // 4 + 1)[: len(terms_here)]
            slopes = torch.autograd.grad(
                pattern.dot(terms_here), parameters, retain_graph=i + 1 < len(_SIGNS), allow_unused=True
            )
            sums[i] = sums[i] + _flat(slopes, parameters)
    diagonal = 2 * torch.stack([torch.as_tensor(total).square() for total in sums]).mean(0)
    largest = diagonal.max()
    return diagonal.clamp(min=largest * torch.finfo(diagonal.dtype).eps) if largest > 0 else torch.ones_like(diagonal)


def _inverse_hessian(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Applies the inverse Hessian that the last changes of point and gradient imply."""
    if not pairs:
        return gradient
    vector, taken = gradient, []
    for change, bend in reversed(pairs):
        amount = change.dot(vector) / bend.dot(change)
        vector = vector - amount * bend
        taken.append(amount)
    change, bend = pairs[-1]
    vector = vector * (change.dot(bend) / bend.dot(bend))
    for (change, bend), amount in zip(pairs, reversed(taken), strict=True):
        vector = vector + (amount - bend.dot(vector) / bend.dot(change)) * change
    return vector


def _gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    return _flat([parameter.grad for parameter in parameters], parameters)


def _flat(slopes: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    pairs = zip(slopes, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if slope is None else slope).reshape(-1) for slope, p in pairs])


def _assign(parameters: Sequence[nn.Parameter], values: Tensor) -> None:
    with torch.no_grad():
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))
