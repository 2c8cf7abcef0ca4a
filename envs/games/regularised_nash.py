"""The KL-regularised Nash policy of a preference game, with a proven bound on its error.

The game is v(p, q) = p'Pq - tau KL(p, ref) + tau KL(q, ref) with P + P' = 1. Its one equilibrium is
pi ∝ ref exp(P pi / tau) (Munos et al. 2023, arXiv:2312.00886, equation 3). With log pi = log ref + theta + const it is
the root of G(theta) = theta - (P - 1/2) pi / tau, which Newton's method finds: the linear systems are I - K with K skew
and |K| <= 1 / (2 tau), never singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.games.validation import require_distribution, require_game, require_memory

Winrate = Callable[[Tensor], Tensor]
"""A game without its matrix: P(. > p) [..., N] for p [..., N], linear in p."""

_DENSE = 512
_ILL_CONDITIONED = 500.0
_STALL = 2.0**-10


class NotConvergedError(RuntimeError):
    """A solver ran out of iterations; the message has the accuracy that it reached."""


@dataclass(frozen=True)
class Solution:
    """An equilibrium and a bound on its error.

    Attributes:
        policy: [N] or [B, N] float64, rows sum to 1.
        certificate: [] or [B], a proven bound on the l1 distance to the equilibrium.
        iterations: Newton steps.
    """

    policy: Tensor
    certificate: Tensor
    iterations: int


@dataclass(frozen=True)
class _Game:
    """B games of one size; every method works on [B, N]."""

    winrate: Winrate
    matrix: Tensor | None  # [B, N, N]
    log_ref: Tensor

    def state(self, theta: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        """Returns the policy and the centred residual G."""
        policy = torch.softmax(self.log_ref + theta, dim=-1)
        residual = theta - eta * self.winrate(policy)
        return policy, residual - residual.mean(dim=-1, keepdim=True)

    def rows(self, index: Tensor) -> _Game:
        """Returns the games of some rows."""
        if self.matrix is None:
            return self
        return _dense(self.matrix[index], self.log_ref[index])

    def solve(self, policy: Tensor, eta: float, target: Tensor, accuracy: float) -> Tensor:
        """Returns d with (I - eta (P - 1/2) D) d = target, D = diag(policy) - policy policy'."""
        if self.matrix is not None and (self.matrix.shape[-1] <= _DENSE or eta > _ILL_CONDITIONED):
            return self._solve_dense(self.matrix, policy, eta, target)
        return self._solve_krylov(policy, eta, target, accuracy)

    @staticmethod
    def _solve_dense(matrix: Tensor, policy: Tensor, eta: float, target: Tensor) -> Tensor:
        way = f"take a tau of at least {1 / _ILL_CONDITIONED:g}, which needs no copies"
        require_memory(matrix.shape[-1], 2, matrix.device, way, len(matrix))
        system = (matrix - matrix @ policy[..., None]).mul_(-eta * policy[..., None, :])
        system.diagonal(dim1=-2, dim2=-1).add_(1)
        if system.is_cuda:
            return torch.linalg.solve(system, target)
        # Row by row: torch's batched solve may return garbage pivots on several CPU threads (pytorch#142815).
        return torch.stack([torch.linalg.solve(row, right) for row, right in zip(system, target, strict=True)])

    def _solve_krylov(self, policy: Tensor, eta: float, target: Tensor, accuracy: float) -> Tensor:
        """Conjugate gradients on (I - K)'(I - K) = I + K'K, K = eta W A W skew on the complement of sqrt(policy)."""
        root = policy.sqrt()

        def project(v: Tensor) -> Tensor:
            return v - root * (root * v).sum(-1, keepdim=True)

        def skew(v: Tensor) -> Tensor:
            return eta * project(root * self.winrate(root * v))

        right = project(root * target)
        z = torch.zeros_like(right)
        r = right + skew(right)
        direction = r.clone()
        rr = (r * r).sum(-1, keepdim=True)
        goal = rr * accuracy**2
        for _ in range(20 * int(math.sqrt(policy.shape[-1])) + 200):
            if (rr <= goal).all():
                break
            along = skew(direction)
            curved = direction - skew(along)
            step = rr / (direction * curved).sum(-1, keepdim=True).clamp_min(1e-300)
            z += step * direction
            r -= step * curved
            rr, before = (r * r).sum(-1, keepdim=True), rr
            direction = r + rr / before.clamp_min(1e-300) * direction
        return target + eta * self.winrate(root * project(z))


def _dense(matrix: Tensor, log_ref: Tensor) -> _Game:
    return _Game(lambda p: (matrix @ p[..., None])[..., 0], matrix, log_ref)


def span(values: Tensor) -> Tensor:
    """Returns max - min over the last dimension."""
    return values.amax(-1) - values.amin(-1)


def _newton(game: _Game, theta: Tensor, eta: float, tol: float, steps: int) -> tuple[Tensor, Tensor, int]:
    """Damped Newton on all rows; returns theta, the residual's span [B] and the steps taken.

    A row whose line search stalls is left unchanged.
    """
    theta = theta.clone()
    policy, residual = game.state(theta, eta)
    error = span(residual)
    active = torch.arange(len(theta), device=theta.device)
    taken = 0
    while taken < steps:
        active = active[error[active] > tol]
        if len(active) == 0:
            break
        taken += 1
        here = game if len(active) == len(theta) else game.rows(active)
        accuracy = min(1e-2, 0.1 * float(error[active].max()))
        # Newton direction, solved more accurately as the residual falls.
        move = here.solve(policy[active], eta, -residual[active], accuracy)
        # Backtracking line search on the residual's norm (Armijo), for each row.
        size = torch.ones(len(active), 1, dtype=theta.dtype, device=theta.device)
        norm = residual[active].norm(dim=-1, keepdim=True)
        while True:
            p, g = here.state(theta[active] + size * move, eta)
            poor = ~(g.norm(dim=-1, keepdim=True) < (1 - 1e-4 * size) * norm) & (size > _STALL)
            if not poor.any():
                break
            size = torch.where(poor, size / 2, size)
        stalled = ~(g.norm(dim=-1) < norm[:, 0])
        good = active[~stalled]
        theta[good] += (size * move)[~stalled]
        policy[good], residual[good] = p[~stalled], g[~stalled]
        error[good] = span(g)[~stalled]
        active = good
    return theta, error, taken


def _path(game: _Game, eta: float, tol: float, steps: int) -> tuple[Tensor, Tensor, int]:
    """Follows the equilibrium from eta <= 1: an Euler step in log eta, then Newton; the step adapts."""
    now = min(eta, 1.0)
    theta, error, taken = _newton(game, torch.zeros_like(game.log_ref), now, min(tol, 1e-3), 50)
    factor = 4.0
    while now < eta and taken < steps:
        policy, _ = game.state(theta, now)
        slope = game.solve(policy, now, theta - theta.mean(-1, keepdim=True), 1e-2)
        then = min(eta, now * factor)
        goal = tol if then == eta else 1e-3
        tried, error, used = _newton(game, theta + slope * math.log(then / now), then, goal, 12)
        taken += used + 1
        if bool((error <= max(goal, 1e-3)).all()):
            theta, now = tried, then
            factor = min(4.0, factor**1.5) if used <= 3 else factor
        else:
            factor = max(math.sqrt(factor), 1 + 1e-4)
    if now == eta:
        theta, error, used = _newton(game, theta, eta, tol, 50)
        taken += used
    return theta, error, taken


def regularised_nash(
    payoff: Tensor | Winrate, ref: Tensor, tau: float, *, tol: float = 1e-9, max_iterations: int = 2000
) -> Solution:
    """Solves the KL-regularised game, for one matrix or a batch of prompts.

    Args:
        payoff: [N, N] or [B, N, N] chances that the row beats the column; or `winrate(p)`, which returns P p for
            one p [N] and stores no matrix.
        ref: [N] or [B, N] reference policy, positive.
        tau: KL coefficient, > 0.
        tol: required certificate.
        max_iterations: Newton steps at most.

    Returns:
        The equilibrium in float64 on the payoff's device, and the proven bound on its l1 error.

    Raises:
        ValueError: if `payoff` is no preference game, `ref` is no positive distribution, or tau not positive.
        NotConvergedError: if the tolerance was not reached; the message says what was.
    """
    if not tau > 0:
        raise ValueError(f"tau must be > 0, got {tau}; for tau -> 0 use von_neumann_winner")
    if callable(payoff):
        winrate, ref = payoff, require_distribution("ref", ref, positive=True)
        if ref.ndim != 1:
            raise ValueError(f"a game without its matrix takes one ref [N], got {tuple(ref.shape)}")
        single, game = True, _Game(lambda p: winrate(p[0])[None], None, ref.log()[None])
    else:
        matrix = require_game(payoff)
        log_ref = require_distribution("ref", ref, matrix, positive=True).log().to(matrix.device)
        single = matrix.ndim == 2 and log_ref.ndim == 1
        batch = matrix if matrix.ndim == 3 else matrix[None]
        count = max(len(batch), 1 if log_ref.ndim == 1 else len(log_ref))
        game = _dense(batch.expand(count, -1, -1), log_ref.expand(count, -1))
    eta = 1 / tau
    if eta <= 100:
        theta, error, taken = _newton(game, torch.zeros_like(game.log_ref), eta, 2 * tol, min(60, max_iterations))
    else:
        theta, taken = torch.zeros_like(game.log_ref), 0
        error = torch.full(theta.shape[:1], math.inf, dtype=theta.dtype, device=theta.device)
    for row in (error > 2 * tol).nonzero()[:, 0]:
        theta_row, error_row, used = _path(game.rows(row[None]), eta, 2 * tol, max_iterations - taken)
        theta[row], error[row] = theta_row[0], error_row[0]
        taken += used
    policy, _ = game.state(theta, eta)
    certificate = error / 2
    if not (certificate <= tol).all():
        raise NotConvergedError(
            f"regularised_nash reached a certificate of {float(certificate.max()):.1e} instead of {tol:.1e} after "
            f"{taken} Newton steps at tau={tau:g}; raise tol or max_iterations"
        )
    return Solution(policy[0] if single else policy, certificate[0] if single else certificate, taken)
