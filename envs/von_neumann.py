"""The von Neumann winner: the policy that no response beats, the equilibrium of a preference game without a KL term.

x is a winner iff (P - 1/2) x <= 0, x >= 0, sum x = 1 (Dudik et al. 2015, arXiv:1502.06362). A linear program (HiGHS)
for small games; above, a primal-dual interior point that uses what the general program hides: the matrix is skew, the
program is its own dual, and one factorisation of diag(s / x) - (P - 1/2) serves predictor and corrector.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lu_factor, lu_solve
from scipy.optimize import linprog
from torch import Tensor

from envs.laws import require_game
from envs.solvers import NotConvergedError, Solution

_LINEAR_PROGRAM = 512

Vector = NDArray[np.float64]


def von_neumann_winner(payoff: Tensor, *, tol: float = 1e-9, method: str = "auto") -> Solution:
    """Solves max_p min_q p'Pq for one matrix.

    Args:
        payoff: [N, N] chances that the row beats the column.
        tol: the exploitability that is asked for.
        method: "highs", "interior", or "auto": HiGHS up to 512 responses, and the interior point where there are more
            or HiGHS stops short.

    Returns:
        A winner (not always the only one) in float64; the certificate is its exploitability max_a P(a > x) - 1/2,
        which is 0 only for a winner.

    Raises:
        ValueError: if `payoff` is no single preference game.
        NotConvergedError: if the tolerance was not reached; the message says what was.
    """
    if method not in ("auto", "highs", "interior"):
        raise ValueError(f"method must be 'auto', 'highs' or 'interior', got {method!r}")
    matrix = require_one_game(payoff)
    small = method == "highs" or (method == "auto" and len(matrix) <= _LINEAR_PROGRAM)
    x, iterations = _highs(matrix) if small else interior_point(matrix, tol)
    if method == "auto" and small and _exploitability(matrix, x) > tol:
        x, iterations = interior_point(matrix, tol)
    exploitability = _exploitability(matrix, x)
    if not exploitability <= tol:
        raise NotConvergedError(
            f"von_neumann_winner reached an exploitability of {exploitability:.1e} instead of {tol:.1e} after "
            f"{iterations} iterations; raise tol or try the other method"
        )
    certificate = torch.tensor(max(exploitability, 0.0), dtype=torch.float64)
    return Solution(torch.from_numpy(x).to(torch.as_tensor(payoff).device), certificate, iterations)


def require_one_game(payoff: Tensor) -> Vector:
    """Returns one game's [N, N] with P + P' = 1 to the last bit.

    Raises:
        ValueError: if `payoff` is no single preference game.
    """
    payoff = require_game(payoff)
    if payoff.ndim != 2:
        raise ValueError(f"one matrix [N, N] is wanted, got {tuple(payoff.shape)}")
    return ((payoff + 1 - payoff.mT) / 2).cpu().numpy()  # float32 tables miss antisymmetry by more than tol


def _exploitability(matrix: Vector, x: Vector) -> float:
    return float((matrix @ x).max() - 0.5)


def _highs(matrix: Vector) -> tuple[Vector, int]:
    """Minimises t subject to (P - 1/2) x <= t."""
    n = len(matrix)
    solved = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([matrix - 0.5, -np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs-ds",
    )
    if solved.x is None:
        raise NotConvergedError(f"HiGHS found no von Neumann winner: {solved.message}")
    x = np.maximum(solved.x[:-1], 0)
    return x / x.sum(), int(solved.nit)


def interior_point(matrix: Vector, tol: float, limit: int = 80) -> tuple[Vector, int]:
    """Mehrotra's predictor-corrector on x >= 0, sum x = 1, s = t - A x >= 0, x s = 0.

    Returns:
        [N] a winner inside the face of all winners, its support the largest, and the iterations taken.
    """
    n = len(matrix)

    def apply(v: Vector) -> Vector:
        return matrix @ v - 0.5 * v.sum()

    ones = np.ones(n)
    x, iteration = ones / n, 0
    t = max(1.0, 2 * np.abs(apply(x)).max())
    s = t - apply(x)
    goal = 1e-2 * tol
    while iteration < limit:
        gap, off, slack = float(x @ s), 1 - x.sum(), t - apply(x) - s
        if gap < goal and abs(off) < goal and np.abs(slack).max() < goal:
            break
        iteration += 1
        system = 0.5 - matrix
        system[np.diag_indices(n)] += s / x
        factors = lu_factor(system, overwrite_a=True, check_finite=False)
        unit = lu_solve(factors, ones, check_finite=False)

        def step(target: Vector) -> tuple[Vector, Vector, float]:
            part = lu_solve(factors, target / x - s - slack, check_finite=False)  # noqa: B023 - used in this iteration
            dt = (part.sum() - off) / unit.sum()  # noqa: B023
            dx = part - dt * unit  # noqa: B023
            return dx, dt - apply(dx) + slack, dt  # noqa: B023

        dx, ds, _ = step(np.zeros(n))
        length = min(_reach(x, dx), _reach(s, ds))
        centre = ((x + length * dx) @ (s + length * ds) / gap) ** 3
        dx, ds, dt = step(centre * gap / n - dx * ds)
        length = min(_reach(x, dx), _reach(s, ds))
        x, s, t = x + length * dx, s + length * ds, t + length * dt
    x = np.maximum(x, 0)
    return x / x.sum(), iteration


def _reach(values: Vector, change: Vector) -> float:
    """Returns the step, at most 1, that stays inside the positive orthant."""
    falling = change < 0
    return min(1.0, 0.9995 * float(np.min(-values[falling] / change[falling]))) if falling.any() else 1.0
