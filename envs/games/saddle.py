"""The equilibrium of an asymmetric KL-regularised zero-sum game."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.games.regularised_nash import NotConvergedError, Solution, span
from envs.games.validation import require_distribution

_ROUNDING = 2.0**-52
_EVERY = 20
"""Iterations between checks of the certificate."""


def regularised_saddle(
    payoff: Tensor, ref: Tensor, tau: float, *, tol: float = 1e-6, max_iterations: int = 200_000
) -> Solution:
    """Solves max_p min_q p'Lq - tau KL(p, ref) + tau KL(q, ref) by the extragradient method of mirror descent.

    Mirror-prox (Nemirovski 2004) with the KL terms taken implicitly; the error falls geometrically, by about
    1 + tau / span(L) an iteration. For L + L' = 1 it is the game of `regularised_nash`, which is faster.

    Args:
        payoff: L, [N, N] or [B, N, N], the row player's payoff, finite.
        ref: [N] or [B, N] reference policy of both players, positive.
        tau: KL coefficient, > 0.
        tol: required certificate.
        max_iterations: at most.

    Returns:
        The row player's policy in float64 on the payoff's device, and the proven bound on its l1 error: the duality
        gap is at least tau KL(p, p*), p* the equilibrium's policy, and Pinsker's inequality does the rest.

    Raises:
        ValueError: if `payoff` is not square and finite, `ref` is no positive distribution, or tau not positive.
        NotConvergedError: if the tolerance was not reached; the message says what was.
    """
    if not tau > 0:
        raise ValueError(f"tau must be > 0, got {tau}")
    matrix = torch.as_tensor(payoff, dtype=torch.float64)
    if matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2] or not matrix.isfinite().all():
        raise ValueError(f"payoff must be finite and square, [N, N] or [B, N, N], got {tuple(matrix.shape)}")
    log_ref = require_distribution("ref", ref, matrix, positive=True).log()
    size = 1 / span(matrix.flatten(-2)).amax().clamp_min(1e-12)  # the largest step that is stable

    def move(log_policy: Tensor, gain: Tensor) -> Tensor:
        return torch.log_softmax((log_policy + size * (tau * log_ref + gain)) / (1 + size * tau), dim=-1)

    def bound(wins: Tensor, losses: Tensor) -> Tensor:
        gap = _regret(wins, row, log_ref, tau) + _regret(-losses, column, log_ref, tau)
        return (2 * gap.clamp_min(_ROUNDING) / tau).sqrt()

    row = column = log_ref.expand(torch.broadcast_shapes(matrix.shape[:-1], log_ref.shape))
    for iteration in range(max_iterations):
        wins, losses = _sides(matrix, row, column)
        if iteration % _EVERY == 0 and bool((bound(wins, losses) <= tol).all()):
            return Solution(row.exp(), bound(wins, losses), iteration)
        half_wins, half_losses = _sides(matrix, move(row, wins), move(column, -losses))
        row, column = move(row, half_wins), move(column, -half_losses)
    reached = float(bound(*_sides(matrix, row, column)).max())
    raise NotConvergedError(
        f"regularised_saddle reached a certificate of {reached:.1e} instead of {tol:.1e} after {max_iterations} "
        f"iterations at tau={tau:g}; raise tol or max_iterations"
    )


def _sides(matrix: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Returns L q and L' p of the log-policies p (row) and q (column)."""
    return (matrix @ column.exp()[..., None])[..., 0], (row.exp()[..., None, :] @ matrix)[..., 0, :]


def _regret(gain: Tensor, log_policy: Tensor, log_ref: Tensor, tau: float) -> Tensor:
    """Returns [...] the most a player could still gain: tau KL(policy, best response), at least 0."""
    best = torch.log_softmax(log_ref + gain / tau, dim=-1)
    return tau * (log_policy.exp() * (log_policy - best)).sum(-1)
