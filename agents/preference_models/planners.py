"""Planners of OELHF: they move the main agent to the regularised equilibrium of a learned preference model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agents.learning.learner import policy_scalars
from agents.policies.tabular import TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.preference_models.network import NetworkModel
from envs.games import regularised_nash
from preference_duel.protocols import Agent, Policy
from preference_duel.types import Duel

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
        prob = model.prob(prompts, left, left)  # [B, K, K]
        weight = torch.full(prob.shape[:2], 1 / prob.shape[1], dtype=torch.float64)
        asked = ~torch.eye(prob.shape[1], dtype=torch.bool).expand(prob.shape)
        scalars = agent.update(Duel(prompts, left, left, prob, weight, weight, asked, "probability", 1))
    scalars["loss/planner"] = scalars.pop("loss/policy")
    return scalars
