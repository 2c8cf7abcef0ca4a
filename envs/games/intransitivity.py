"""Intransitivity of preferences: four measures that complement each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from envs.games.regularised_nash import NotConvergedError
from envs.games.validation import require_distribution, require_game

_TIE = 1e-12


@dataclass(frozen=True)
class Intransitivity:
    """The measures of a game, each [...] float64, one number for each prompt.

    Attributes:
        curl_ratio: share of the logits' energy that no reward explains, in [0, 1]; NaN if a preference is 0 or 1.
        cyclic_triads: share of the triples in which each beats one and loses to one, in [0, 1].
        bt_excess: nats per comparison that the best Bradley-Terry model misses, at least 0.
        pure: the least exploitability of a single response, in [0, 1/2]; 0 iff some response is beaten by none.
    """

    curl_ratio: Tensor
    cyclic_triads: Tensor
    bt_excess: Tensor
    pure: Tensor


def intransitivity(payoff: Tensor, weights: Tensor | None = None) -> Intransitivity:
    """Measures a game, or each of a batch.

    The curl ratio is sum (L_ij - r_i + r_j)^2 / sum L_ij^2 with L = logit P and r the row means of L, the
    least-squares reward (Jiang et al. 2011, "Statistical ranking and combinatorial Hodge theory").

    Args:
        payoff: [..., N, N] chances that the row beats the column.
        weights: [N] distribution over the responses: the curl ratio and the Bradley-Terry excess then count a pair
            w_i w_j times. None: uniform. Triads and `pure` are unweighted.

    Returns:
        The four measures.

    Raises:
        ValueError: if `payoff` is no preference game or `weights` is no distribution over its responses.
        NotConvergedError: if the Bradley-Terry fit stopped short.
    """
    payoff, games, weights = _checked(payoff, weights)
    rows = [(_curl_ratio(game, weights), _triads(game), _bt_excess(game, weights), _pure(game)) for game in games]
    values = torch.tensor(rows, dtype=torch.float64).reshape(*payoff.shape[:-2], 4)
    return Intransitivity(*values.unbind(-1))


def bradley_terry_fit(
    payoff: Tensor, weights: Tensor | None = None, *, pairs: Tensor | None = None, tol: float = 1e-12
) -> Tensor:
    """Returns the rewards r of the Bradley-Terry model sigmoid(r_i - r_j) nearest to the preferences.

    Newton's method on the convex min_r sum w_ij KL(P_ij || sigmoid(r_i - r_j)), to `tol` nats per comparison. If
    one group always beats the other, no finite minimum exists, and the rewards are those at which the divergence
    stopped falling by more than `tol`.

    Args:
        payoff: [..., N, N] chances that the row beats the column.
        weights: [N] distribution over the responses, w_ij = w_i w_j; None: uniform.
        pairs: [..., N, N] w_ij themselves, symmetric, at least 0, such as the number of comparisons; instead of
            `weights`.
        tol: accuracy of the divergence, nats per comparison.

    Returns:
        [..., N] float64 nats, their weighted mean 0.

    Raises:
        ValueError: if `payoff` is no preference game, or `pairs` no symmetric table of weights.
        NotConvergedError: after 200 steps without reaching `tol`.
    """
    payoff, games, weights = _checked(payoff, weights)
    if pairs is None:
        return _fit(games, weights, _pairs(weights).expand_as(games), tol).view(payoff.shape[:-1])
    if pairs.shape != payoff.shape or not (pairs >= 0).all() or not torch.equal(pairs, pairs.mT):
        raise ValueError(f"pairs must be {tuple(payoff.shape)}, symmetric and at least 0, got {tuple(pairs.shape)}")
    pairs = pairs.double().reshape(games.shape).clone()
    pairs.diagonal(dim1=1, dim2=2).zero_()
    shares = pairs * (2 / pairs.sum((1, 2), keepdim=True))
    return _fit(games, weights, shares, tol).view(payoff.shape[:-1])


def _checked(payoff: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the payoff, its games [B, N, N], and the weights [N], uniform if there are none."""
    payoff = require_game(payoff)
    count = payoff.shape[-1]
    weights = torch.full((count,), 1 / count, dtype=torch.float64) if weights is None else weights
    weights = require_distribution("weights", weights, payoff).to(payoff.device)
    return payoff, payoff.reshape(-1, count, count), weights


def _fit(payoff: Tensor, weights: Tensor, pairs: Tensor, tol: float = 1e-12) -> Tensor:
    """Returns [B, N] the fits of games [B, N, N]; each moves as if it were alone."""
    reward = torch.zeros(payoff.shape[:2], dtype=torch.float64, device=payoff.device)
    value = _cross_entropy(payoff, reward, pairs)
    rows, decrement = torch.arange(len(payoff), device=payoff.device), torch.zeros(len(payoff))
    for _ in range(200):
        chance = torch.sigmoid(reward[rows, :, None] - reward[rows, None, :])
        gradient = (pairs[rows] * (chance - payoff[rows])).sum(-1)
        move = -_laplacian_solve(pairs[rows] * chance * (1 - chance), gradient)
        decrement = -(gradient * move).sum(-1) / 2
        far = ~(decrement <= tol)  # NaN has not converged
        rows, move, decrement = rows[far], move[far], decrement[far]
        if len(rows) == 0:
            return reward - reward @ weights[:, None]
        size = torch.ones_like(decrement)
        while True:  # backtracking line search (Armijo), for each game
            tried = _cross_entropy(payoff[rows], reward[rows] + size[:, None] * move, pairs[rows])
            short = tried > value[rows] - 0.2 * size * decrement
            if not short.any():
                break
            size = torch.where(short, size / 2, size)
            if (size < 2.0**-30).any():
                raise NotConvergedError(f"the Bradley-Terry fit stalled {decrement.max():.1e} nats above its minimum")
        reward[rows] += size[:, None] * move
        value[rows] = tried
    raise NotConvergedError(
        f"the Bradley-Terry fit is still {decrement.max():.1e} nats above its minimum after 200 steps"
    )


def _pairs(weights: Tensor) -> Tensor:
    """Returns [N, N] weights of the pairs, 0 on the diagonal, each unordered pair twice, half their sum 1."""
    pairs = weights[:, None] * weights[None, :]
    pairs.fill_diagonal_(0)
    total = float(pairs.sum())
    return pairs * (2 / total) if total > 0 else pairs


def _laplacian_solve(curvature: Tensor, right: Tensor) -> Tensor:
    """Solves (diag(curvature 1) - curvature) d = right; the ridge fixes groups that were never compared."""
    system = torch.diag_embed(curvature.sum(-1)) - curvature
    scale = system.diagonal(dim1=1, dim2=2).amax(1)[:, None]
    system += scale[:, None] / system.shape[-1]  # the constants, in the kernel
    system.diagonal(dim1=1, dim2=2).add_(1e-14 * scale)
    return torch.linalg.solve(system, right)


def _cross_entropy(payoff: Tensor, reward: Tensor, pairs: Tensor) -> Tensor:
    gap = reward[:, :, None] - reward[:, None, :]
    return (pairs * (softplus(gap) - payoff * gap)).sum((1, 2)) / 2


def _bt_excess(payoff: Tensor, weights: Tensor) -> float:
    pairs = _pairs(weights)
    entropy = -(pairs * torch.xlogy(payoff, payoff)).sum()  # each unordered pair once: P and 1 - P both occur
    fit = _fit(payoff[None], weights, pairs[None])
    return max(0.0, float(_cross_entropy(payoff[None], fit, pairs[None])) - float(entropy))


def _curl_ratio(payoff: Tensor, weights: Tensor) -> float:
    if not ((payoff > 0) & (payoff < 1)).all():
        return math.nan
    logits = torch.logit(payoff)
    logits = (logits - logits.mT) / 2
    mean = logits @ weights
    pairs = _pairs(weights)
    energy = float((pairs * logits.square()).sum())
    logits -= mean[:, None] - mean[None, :]
    return float((pairs * logits.square()).sum()) / energy if energy > 0 else 0.0


def _triads(payoff: Tensor) -> float:
    """Counts triples in a cycle; without ties by Kendall and Babington Smith (1940), with ties one by one."""
    count = len(payoff)
    if count < 3:
        return 0.0
    beats = payoff - 0.5 > _TIE
    if int(beats.sum()) == count * (count - 1) // 2:
        wins = beats.sum(-1).double()
        cycles = count * (count - 1) * (2 * count - 1) / 12 - float(wins.square().sum()) / 2
    else:
        adjacent = beats.float()  # exact: counts stay below 2^24
        cycles = float(((adjacent @ adjacent) * adjacent.mT).sum(dtype=torch.float64)) / 3
    return round(cycles) / math.comb(count, 3)


def _pure(payoff: Tensor) -> float:
    return float(payoff.amax(-2).amin() - 0.5)
