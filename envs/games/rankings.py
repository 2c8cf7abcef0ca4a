"""Meta-games between the policies of several agents: cross-play, Nash averaging, alpha-Rank, Elo."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.games.intransitivity import bradley_terry_fit
from envs.games.max_entropy import maximum_entropy_winner
from envs.games.validation import require_distribution, require_game, require_one_game


def cross_play(payoff: Tensor, policies: Tensor) -> Tensor:
    """Returns the exact probability that one policy's response beats another's, averaged over prompts.

    Args:
        payoff: [N, N] or [B, N, N] chances that the row beats the column.
        policies: [A, N] or [A, B, N], A policies.

    Returns:
        [A, A] float64, C_ab = mean_x pi_a' P pi_b; C + C' = 1.

    Raises:
        ValueError: if `payoff` is no preference game or a policy is no distribution over its responses.
    """
    payoff = require_game(payoff)
    policies = require_distribution("policies", policies, payoff).to(payoff.device)
    if policies.ndim != payoff.ndim or policies.shape[1:-1] != payoff.shape[:-2]:
        expected = ", ".join(map(str, ("A", *payoff.shape[:-1])))
        raise ValueError(f"policies must be [{expected}], got {tuple(policies.shape)}")
    games = payoff.reshape(-1, *payoff.shape[-2:])
    rows = policies.reshape(len(policies), len(games), -1).transpose(0, 1)  # [B, A, N]
    table = (rows @ games @ rows.mT).mean(0)
    return (table + 1 - table.mT) / 2


def nash_average(table: Tensor) -> Tensor:
    """Returns the mass of each policy in the meta-game's equilibrium of most entropy (Balduzzi et al. 2018).

    A copy of a policy shares its mass and leaves all others' unchanged, unlike an average over opponents. The skill
    of policy a is (table @ mass)_a - 1/2, at most 0.

    Args:
        table: [A, A] from `cross_play`.

    Returns:
        [A] float64, sums to 1.

    Raises:
        ValueError: if `table` is no single preference game.
    """
    return maximum_entropy_winner(table).policy


def alpha_rank(table: Tensor, *, alpha: float = 100.0, population: int = 50) -> Tensor:
    """Returns the share of time that evolution spends at each policy (Omidshafiei et al. 2019).

    A population of `population` copies of one policy is invaded by a single copy of another, which takes over with
    probability (1 - e^-u) / (1 - e^-mu), u = alpha (C_rs - C_sr). Everything is a logarithm and the chain is solved
    without a subtraction (Grassmann, Taksar and Heyman 1985), so that probabilities of e^-5000 still rank policies.

    Args:
        table: [A, A] from `cross_play`.
        alpha: selection intensity, positive.
        population: m, at least 2.

    Returns:
        [A] float64, sums to 1.

    Raises:
        ValueError: if `table` is no single preference game, or a parameter is out of range.
    """
    table = require_one_game(table).cpu()
    if not 0 < alpha < math.inf or population < 2:
        raise ValueError(f"alpha must be positive and population at least 2, got {alpha:g} and {population}")
    log_rate = _log_fixation(alpha * (table.mT - table), population)  # [s, r]: r invades s
    count = len(table)
    log_out = torch.zeros(count, dtype=torch.float64)
    for k in range(count - 1, 0, -1):
        log_out[k] = torch.logsumexp(log_rate[k, :k], 0)
        through = log_rate[:k, k, None] + log_rate[None, k, :k] - log_out[k]
        log_rate[:k, :k] = torch.logaddexp(log_rate[:k, :k], through)
    log_share = torch.zeros(count, dtype=torch.float64)
    for k in range(1, count):
        log_share[k] = torch.logsumexp(log_share[:k] + log_rate[:k, k], 0) - log_out[k]
    return torch.softmax(log_share, 0)


def elo(table: Tensor) -> Tensor:
    """Returns Elo ratings of mean 0: the Bradley-Terry fit to the table in units of 400 / ln 10 nats.

    A contrast, not a recommendation: copies of a policy change the ratings of all others. If one group always
    beats another, the best fit is infinite, which is warned of; see `bradley_terry_fit`.

    Args:
        table: [A, A] from `cross_play`.

    Returns:
        [A] float64 points.

    Raises:
        ValueError: if `table` is no single preference game.
        NotConvergedError: if the fit stopped short.
    """
    return bradley_terry_fit(require_one_game(table)) * (400 / math.log(10))


def _log_fixation(u: Tensor, m: int) -> Tensor:
    """Returns log((1 - e^-u) / (1 - e^-mu)), log(1/m) at 0."""
    size = u.abs().clamp_min(1e-300)
    rising = torch.log(-torch.expm1(-size)) - torch.log(-torch.expm1(-m * size))
    falling = rising - (m - 1) * size
    value = torch.where(u >= 0, rising, falling)
    return torch.where(u.abs() < 1e-14, torch.full_like(u, -math.log(m)), value)
