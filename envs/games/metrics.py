"""Exact metrics of a preference game with finitely many responses, in float64.

Everywhere `payoff` is [..., N, N] with payoff[i, j] = P(i beats j), payoff + payoff' = 1, and policies are [..., N];
leading dimensions broadcast (one game for each prompt). `tau` is the KL coefficient of the regularised game
v(p, q) = p'Pq - tau KL(p, ref) + tau KL(q, ref).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.games.validation import require_distribution, require_game, require_memory
from oracles import Oracle
from oracles import payoff as ask

_SERIES_BELOW = 1e-3


def payoff_matrix(oracle: Oracle, prompt: str | Sequence[str], responses: Sequence[str]) -> Tensor:
    """Asks an oracle about every pair of responses to one prompt, or to each of several.

    Returns:
        [N, N] float64, or [B, N, N] for a sequence of B prompts.

    Raises:
        ValueError: if that would not fit into memory, or the oracle answers anything but probabilities.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    way = "list fewer responses, ask about fewer prompts, or solve it by `winrate` without its matrix"
    require_memory(len(responses), 2, torch.device("cpu"), way, len(prompts))
    matrix = ask(oracle, prompts, [list(responses)] * len(prompts)).double()
    return matrix[0] if isinstance(prompt, str) else matrix


def exploitability(payoff: Tensor, policy: Tensor) -> Tensor:
    """Returns max_a P(a beats policy) - 1/2: what the best single response gains over a draw.

    Returns:
        [...] in [0, 1/2]; 0 only for a von Neumann winner.

    Raises:
        ValueError: if `payoff` is no preference game or `policy` is no distribution over its responses.
    """
    return _chances(require_game(payoff), require_distribution("policy", policy, payoff)).amax(-1) - 0.5


def duality_gap(payoff: Tensor, policy: Tensor) -> Tensor:
    """Returns max_y P(y beats policy) - min_y P(policy beats y): twice the exploitability.

    Returns:
        [...] in [0, 1].

    Raises:
        ValueError: as `exploitability`.
    """
    game, policy = require_game(payoff), require_distribution("policy", policy, payoff)
    return _chances(game, policy).amax(-1) - _chances(game.mT, policy).amin(-1)


def best_response(payoff: Tensor, policy: Tensor, ref: Tensor, tau: float) -> Tensor:
    """Returns the regularised game's best response, proportional to ref exp(P(. beats policy) / tau).

    Args:
        payoff: [..., N, N].
        policy: [..., N] the opponent.
        ref: [..., N] the reference policy.
        tau: KL coefficient, nats^-1 of win rate, positive.

    Returns:
        [..., N], rows sum to 1.

    Raises:
        ValueError: as `exploitability`, or if `tau` is not positive.
    """
    return _log_best_response(payoff, policy, ref, tau).exp()


def regularised_exploitability(payoff: Tensor, policy: Tensor, ref: Tensor, tau: float) -> Tensor:
    """Returns tau KL(policy || its best response): half the regularised game's duality gap of (policy, policy).

    Convex in the policy, 0 only at the unique regularised Nash pi*, and KL(policy || pi*) is at most 1/tau times it.

    Args:
        payoff: [..., N, N].
        policy: [..., N].
        ref: [..., N] the reference policy.
        tau: KL coefficient, positive.

    Returns:
        [...], at least 0; infinite if `policy` leaves the support of `ref`.

    Raises:
        ValueError: as `best_response`.
    """
    log_policy = require_distribution("policy", policy, payoff).log()
    return tau * _kl(log_policy, _log_best_response(payoff, policy, ref, tau))


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Returns KL(first || second) = sum p (expm1(d) - d) with d = log q - log p.

    Each summand is at least 0 and as small as d, so that nothing cancels near equality; the plain sum p log(p/q) stops
    at 1e-16 there and goes negative.

    Args:
        first: [..., N] p, rows sum to 1.
        second: [..., N] q likewise.

    Returns:
        [...] nats, at least 0; infinite if p leaves the support of q.

    Raises:
        ValueError: if one of them is no probability vector.
    """
    first, second = require_distribution("first", first), require_distribution("second", second)
    return _kl(first.log(), second.log())


def _kl(log_first: Tensor, log_second: Tensor) -> Tensor:
    first, second = log_first.exp(), log_second.exp()
    difference = log_second - log_first
    series = difference.square() * (0.5 + difference * (1 / 6 + difference / 24))
    plain = second - first - first * difference
    near = first * torch.where(difference.abs() < _SERIES_BELOW, series, torch.expm1(difference) - difference)
    terms = torch.where(difference.abs() < 1, near, plain)
    return torch.where(first > 0, terms, second).sum(-1)


def _chances(payoff: Tensor, policy: Tensor) -> Tensor:
    """Returns [..., N] P(each response beats the policy)."""
    return (payoff @ policy[..., None]).squeeze(-1)


def _log_best_response(payoff: Tensor, policy: Tensor, ref: Tensor, tau: float) -> Tensor:
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}; without regularisation the best response is an argmax")
    chances = _chances(require_game(payoff), require_distribution("policy", policy, payoff))
    return torch.log_softmax(require_distribution("ref", ref, payoff).log() + chances / tau, dim=-1)
