"""Planners of OELHF and PELHF: they move the main agent to the regularised equilibrium of a learned game."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agents.learning.scalars import policy_scalars
from agents.policies.tabular import TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.preference_models.network import NetworkModel
from envs.games import regularised_nash
from preference_duel.protocols import Agent, Policy
from preference_duel.types import Completion, Duel

Responses = Sequence[Sequence[Completion]]
"""[B][K] responses."""
_LEAST = torch.finfo(torch.float64).tiny


def solve_equilibrium(
    policy: Policy, reference: Policy, model: DuelCounts | NetworkModel, duel: Duel, tau: float
) -> dict[str, float]:
    """Sets a table's policy to the model's Nash policy, regularised by tau KL(pi || reference), at a duel's prompts.

    Returns:
        Scalars of the policy before, by tag.
    """
    assert isinstance(policy, TabularPolicy)
    assert isinstance(model, DuelCounts)
    prompts = list(dict.fromkeys(duel.prompts))
    with torch.no_grad():
        log_reference = reference.logprob(duel.prompts, duel.left)  # [B, K]
        log_policy = policy.logprob(duel.prompts, duel.left)
        scalars = policy_scalars(duel.left_weight, log_policy, log_reference, duel.left)
        start = reference.distribution(prompts, policy.cells.responses)  # [X, N]
        nash = regularised_nash(model.matrix(prompts), start / start.sum(-1, keepdim=True), tau, tol=1e-8)
        policy.logits[policy.cells.rows_of(prompts)] = nash.policy.clamp_min(_LEAST).log()
    return scalars


def play_on_model(
    agent: Agent, model: DuelCounts | NetworkModel, prompts: Sequence[str], steps: int
) -> dict[str, float]:
    """Takes `steps` updates of a self-play agent on the model's probabilities.

    Returns:
        Scalars of the last update by tag, its loss as "loss/planner".
    """
    scalars = {}
    for _ in range(steps):
        left = agent.propose(prompts).left
        scalars = agent.update(_self_play(prompts, left, model.prob(prompts, left, left)))
    scalars["loss/planner"] = scalars.pop("loss/policy")
    return scalars


def play_for_two(
    first: Agent,
    second: Agent,
    payoff: Callable[[Sequence[str], Responses, Responses], Tensor],
    prompts: Sequence[str],
    steps: int,
) -> dict[str, float]:
    """Takes `steps` updates of two agents that play a zero-sum game with each other.

    Each learns of its own samples a and b that P(a beats b) - 1/2 is half of what a gains more than b against the
    other's samples; IPO agents of coefficient tau / 2 move to the saddle point of the game regularised by tau:
    log pi1 = log ref + payoff pi2 / tau + const, log pi2 = log ref - payoff' pi1 / tau + const.

    Args:
        first: gets the payoff.
        second: pays it.
        payoff: returns [B, K, L] in [0, 1] of prompts, the first's and the second's responses.
        prompts: B prompts.
        steps: updates of each.

    Returns:
        Scalars of the first one's last update by tag, its loss as "loss/planner".
    """
    scalars = {}
    for _ in range(steps):
        ours, theirs = first.propose(prompts).left, second.propose(prompts).left
        gain = payoff(prompts, ours, theirs)
        scalars = first.update(_self_play(prompts, ours, _preference(gain.mean(2))))
        second.update(_self_play(prompts, theirs, _preference(-gain.mean(1))))
    scalars["loss/planner"] = scalars.pop("loss/policy")
    return scalars


def _preference(gain: Tensor) -> Tensor:
    """Returns [B, K, K] probabilities whose distance from 1/2 is half the difference of gains [B, K]."""
    return (1 + gain[:, :, None] - gain[:, None, :]) / 2


def _self_play(prompts: Sequence[str], responses: Responses, prob: Tensor) -> Duel:
    """Returns a duel of samples with each other whose probabilities [B, K, K] are known."""
    weight = torch.full(prob.shape[:2], 1 / prob.shape[1], dtype=torch.float64)
    asked = ~torch.eye(prob.shape[1], dtype=torch.bool).expand(prob.shape)
    return Duel(prompts, responses, responses, prob, weight, weight, asked, "probability", 1)
