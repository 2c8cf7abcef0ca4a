"""The von Neumann winner of maximum entropy: the limit of the uniformly regularised Nash policy as tau -> 0."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.games.regularised_nash import NotConvergedError, Solution
from envs.games.von_neumann import interior_point, require_antisymmetric

_FLAT = 1e-10
_ACCURATE = 1e-13
_SHARPEST = 1e-12

Vector = NDArray[np.float64]


def maximum_entropy_winner(payoff: Tensor, *, tol: float = 1e-9) -> Solution:
    """Solves max -sum x log x over the von Neumann winners of one matrix; there is exactly one such x.

    An interior point ends at a winner with the largest support (strict complementarity, Goldman and Tucker 1956).
    If the equations on that support leave no freedom, it is the only winner; otherwise Newton's method follows a
    barrier on the responses outside of the support. If rounding hides the support, as in large smooth games of low
    rank, the interior point's winner is returned.

    Args:
        payoff: [N, N] chances that the row beats the column.
        tol: required exploitability.

    Returns:
        The policy in float64; the certificate is its exploitability.

    Raises:
        ValueError: if `payoff` is no single preference game.
        NotConvergedError: if the tolerance was not reached; the message says what was.
    """
    game = require_antisymmetric(payoff)
    winner, iterations = interior_point(game, _ACCURATE)
    advantage, x = game.cpu().numpy() - 0.5, winner.cpu().numpy()
    support = x > -advantage @ x
    policy = np.zeros(len(x))
    policy[support], steps = _maximise_entropy(
        advantage[np.ix_(support, support)], advantage[np.ix_(~support, support)], x[support]
    )
    if (advantage @ policy).max() > tol:
        policy = x
    exploitability = float((advantage @ policy).max())
    if not exploitability <= tol:
        raise NotConvergedError(
            f"maximum_entropy_winner reached an exploitability of {exploitability:.1e} instead of {tol:.1e}; raise tol"
        )
    certificate = torch.tensor(max(exploitability, 0.0), dtype=torch.float64)
    return Solution(torch.from_numpy(policy).to(game.device), certificate, iterations + steps)


def _maximise_entropy(inside: Vector, outside: Vector, x: Vector) -> tuple[Vector, int]:
    """Returns the x of most entropy with inside x = 0, outside x <= 0, sum x = 1, and Newton's steps."""
    equations = np.vstack([inside, np.ones(len(x))])
    _, sizes, basis = np.linalg.svd(equations)
    free = basis[int((sizes > _FLAT * sizes.max()).sum()) :].T  # [S, F] directions along which all equations hold
    right = np.append(np.zeros(len(x)), 1.0)
    exact = x + np.linalg.lstsq(equations, right - equations @ x, rcond=_FLAT)[0]
    if exact.min() > 0 and (outside @ exact).max(initial=-1.0) < 0:  # unless the game is singular to rounding
        x = exact
    if free.shape[1] == 0 or (outside @ x).max(initial=-1.0) >= 0:
        return x / x.sum(), 0
    steps, sharpness = 0, 1e-2
    while sharpness > _SHARPEST:
        sharpness *= 0.1
        for _ in range(50):
            move, decrement = _newton_step(outside, x, free, sharpness)
            if decrement < 1e-16:
                break
            steps += 1
            x = _line_search(outside, x, move, decrement, sharpness)
    return x / x.sum(), steps


def _newton_step(outside: Vector, x: Vector, free: Vector, sharpness: float) -> tuple[Vector, float]:
    slack = -outside @ x
    gradient = free.T @ (np.log(x) + 1 + sharpness * (outside.T @ (1 / slack)))
    away = outside @ free / slack[:, None]
    curvature = free.T @ (free / x[:, None]) + sharpness * away.T @ away
    step = -np.linalg.solve(curvature, gradient)
    return free @ step, float(-gradient @ step)


def _line_search(outside: Vector, x: Vector, move: Vector, decrement: float, sharpness: float) -> Vector:
    """Returns the first of x + move, x + move/2, ... that is feasible and descends, or x at the limit of rounding."""
    start = _barrier(outside, x, sharpness)
    size = 1.0
    while size > 2.0**-40:
        trial = x + size * move
        feasible = trial.min() > 0 and (outside @ trial).max(initial=-1.0) < 0
        if feasible and _barrier(outside, trial, sharpness) <= start - 1e-4 * size * decrement + 1e-16:
            return trial
        size /= 2
    return x


def _barrier(outside: Vector, x: Vector, sharpness: float) -> float:
    return float((x * np.log(x)).sum() - sharpness * np.log(-outside @ x).sum())
