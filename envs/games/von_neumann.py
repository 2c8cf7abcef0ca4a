"""The von Neumann winner: the equilibrium of a preference game without a KL term, beaten by no response.

x is a winner iff (P - 1/2) x <= 0, x >= 0, sum x = 1 (Dudik et al. 2015, arXiv:1502.06362). A linear program (HiGHS)
for small games; above, a primal-dual interior point that uses what the general program hides: the matrix is skew, the
program is its own dual, and one factorisation of diag(s / x) - (P - 1/2) serves predictor and corrector. It is first
tried on growing parts of the responses, since winners of structured games play few (McMahan et al. 2003, "Planning in
the presence of cost functions controlled by an adversary").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from envs.games.regularised_nash import NotConvergedError, Solution
from envs.games.validation import require_memory, require_one_game

_LINEAR_PROGRAM = 64
_EXACT = 1e-14
_STRIPE = 256
_PART = 8
"""The largest share of responses in a subgame is 1 / 8; beyond, the game is solved whole."""


def von_neumann_winner(payoff: Tensor, *, tol: float = 1e-9, method: str = "auto") -> Solution:
    """Solves max_p min_q p'Pq for one matrix.

    Args:
        payoff: [N, N] chances that the row beats the column.
        tol: required exploitability.
        method: "highs", "interior", or "auto": HiGHS up to 64 responses; above, or if HiGHS stops short, the interior
            point, on a subgame if that suffices.

    Returns:
        A winner (not always the only one) in float64; the certificate is its exploitability max_a P(a > x) - 1/2,
        which is 0 only for a winner.

    Raises:
        ValueError: if `payoff` is no single preference game, or the solver's copies would not fit into memory.
        NotConvergedError: if the tolerance was not reached; the message says what was.
    """
    if method not in ("auto", "highs", "interior"):
        raise ValueError(f"method must be 'auto', 'highs' or 'interior', got {method!r}")
    matrix = require_antisymmetric(payoff)
    way = "take regularised_nash with a small tau, which needs no copies, or fewer responses"
    require_memory(len(matrix), 2, matrix.device, way)
    if method == "auto":
        x, iterations = _highs(matrix) if len(matrix) <= _LINEAR_PROGRAM else _on_a_subgame(matrix, tol)
        if x is None or _exploitability(matrix, x) > tol:
            x, iterations = interior_point(matrix, tol)
    else:
        x, iterations = _highs(matrix) if method == "highs" else interior_point(matrix, tol)
    exploitability = _exploitability(matrix, x)
    if not exploitability <= tol:
        raise NotConvergedError(
            f"von_neumann_winner reached an exploitability of {exploitability:.1e} instead of {tol:.1e} after "
            f"{iterations} iterations; raise tol or try the other method"
        )
    certificate = torch.tensor(max(exploitability, 0.0), dtype=torch.float64)
    return Solution(x, certificate, iterations)


def require_antisymmetric(payoff: Tensor) -> Tensor:
    """Returns one game's [N, N] with P + P' = 1 up to float64's rounding.

    Raises:
        ValueError: if `payoff` is no single preference game.
    """
    payoff = require_one_game(payoff)
    if all(float((rows + columns.mT - 1).abs().max()) < _EXACT for rows, columns in _stripes(payoff)):
        return payoff
    return (payoff + 1).sub_(payoff.mT).div_(2)  # float32 tables miss antisymmetry by more than tol


def _stripes(matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields a few rows of a matrix and the columns of the same numbers."""
    return zip(matrix.split(_STRIPE, 0), matrix.split(_STRIPE, 1), strict=True)


def _exploitability(matrix: Tensor, x: Tensor) -> float:
    return float((matrix @ x).max() - 0.5)


def _highs(matrix: Tensor) -> tuple[Tensor, int]:
    """Minimises t subject to (P - 1/2) x <= t."""
    from scipy.optimize import linprog  # scipy takes half a second

    n = len(matrix)
    solved = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([matrix.cpu().numpy() - 0.5, -np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs-ds",
    )
    if solved.x is None:
        raise NotConvergedError(f"HiGHS found no von Neumann winner: {solved.message}")
    x = torch.from_numpy(np.maximum(solved.x[:-1], 0)).to(matrix)
    return x / x.sum(), int(solved.nit)


def _on_a_subgame(matrix: Tensor, tol: float) -> tuple[Tensor | None, int]:
    """Solves a subgame and adds the responses that beat its winner until none does; None if many do."""
    chosen, iterations = matrix.mean(1).argmax()[None], 0
    while len(chosen) <= len(matrix) // _PART:
        x, steps = interior_point(matrix[chosen][:, chosen], tol)
        iterations += steps
        prob = matrix[:, chosen] @ x
        prob[chosen] = 0.5
        if prob.max() <= 0.5 + tol:
            return torch.zeros_like(prob).index_put((chosen,), x), iterations
        worst = prob.topk(max(4, len(chosen)))
        chosen = torch.cat([chosen, worst.indices[worst.values > 0.5 + tol]])
    return None, iterations


def interior_point(matrix: Tensor, tol: float, limit: int = 80) -> tuple[Tensor, int]:
    """Mehrotra's predictor-corrector on x >= 0, sum x = 1, s = t - A x >= 0, x s = 0.

    Returns:
        [N] a winner in the relative interior of all winners, of the largest support, and the iterations.
    """
    x = torch.full_like(matrix[0], 1 / len(matrix))
    advantage = _advantage(matrix, x)
    t = max(1.0, 2 * float(advantage.abs().max()))
    s = t - advantage
    goal = 1e-2 * tol
    iteration = 0
    while iteration < limit:
        slack = t - _advantage(matrix, x) - s
        if float(x @ s) < goal and abs(1 - float(x.sum())) < goal and float(slack.abs().max()) < goal:
            break
        x, s, t = _mehrotra_step(matrix, x, s, t, slack)
        iteration += 1
    x = x.clamp_min(0)
    return x / x.sum(), iteration


def _advantage(matrix: Tensor, x: Tensor) -> Tensor:
    """Returns (P - 1/2) x."""
    return matrix @ x - 0.5 * x.sum()


def _mehrotra_step(matrix: Tensor, x: Tensor, s: Tensor, t: float, slack: Tensor) -> tuple[Tensor, Tensor, float]:
    """Returns the next x, s and t; one factorisation serves predictor and corrector."""
    system = 0.5 - matrix
    system.diagonal().add_(s / x)
    factors = torch.linalg.lu_factor(system)
    unit = torch.linalg.lu_solve(*factors, torch.ones_like(x)[:, None])[:, 0]
    gap, off = float(x @ s), 1 - float(x.sum())

    def step(target: Tensor) -> tuple[Tensor, Tensor, float]:
        part = torch.linalg.lu_solve(*factors, (target / x - s - slack)[:, None])[:, 0]
        dt = float((part.sum() - off) / unit.sum())
        dx = part - dt * unit
        return dx, dt - _advantage(matrix, dx) + slack, dt

    # Predictor: the affine scaling direction, which aims at x s = 0.
    dx, ds, _ = step(torch.zeros_like(x))
    length = min(_step_length(x, dx), _step_length(s, ds))
    # Corrector: re-centred by Mehrotra's cube of the gap's ratio, with the second-order term dx ds.
    centre = float((x + length * dx) @ (s + length * ds) / gap) ** 3
    dx, ds, dt = step(centre * gap / len(x) - dx * ds)
    length = min(_step_length(x, dx), _step_length(s, ds))
    return x + length * dx, s + length * ds, t + length * dt


def _step_length(values: Tensor, change: Tensor) -> float:
    """Returns the step, at most 1, that stays inside the positive orthant."""
    falling = change < 0
    return min(1.0, 0.9995 * float((-values[falling] / change[falling]).min())) if falling.any() else 1.0
