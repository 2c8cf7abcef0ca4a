"""Steps on a regularised game that several agents of `agents/nash` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.scalars import policy_scalars
from agents.learning.scores import Scale, token_logprob

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.learner import Learner
    from preference_duel.protocols import Policy
    from preference_duel.types import Duel


def left_logprob(duel: Duel, *policies: Policy) -> list[Tensor]:
    """Returns [B, K] nats of the left seat's responses by each of some policies."""
    with torch.no_grad():
        return [policy.logprob(duel.prompts, duel.left) for policy in policies]


def mirror_step(
    learner: Learner, duel: Duel, log_opponent: Tensor, log_reference: Tensor, eta: float, tau: float
) -> dict[str, float]:
    """Takes one optimiser step towards opponent^(1 - eta tau) reference^(eta tau) exp(eta P(. beats the opponent)).

    Zhang et al. 2024, arXiv:2407.00617, equation 12, with 1/eta for the paper's eta and the mean over outcomes for its
    hard label: (log pi/anchor(y) - log pi/anchor(y') - eta (P(y beats y') - 1/2))^2 over pairs of the duel's draws.

    Args:
        learner: of the policy.
        duel: the same samples in both seats.
        log_opponent: [B, K] nats.
        log_reference: [B, K] nats.
        eta: step size, 1/nats.
        tau: KL coefficient.

    Returns:
        Its scalars by tag, see `Learner.step`.

    Raises:
        ValueError: if the seats hold different draws.
    """
    if not duel.self_play:
        raise ValueError(
            "a mirror step learns from pairs of samples of one distribution, and the seats hold samples of two"
        )

    def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        return losses.ipo(first - second, prob, tau=1 / eta)  # [b, K, K] (margin - eta (P - 1/2))^2

    anchor = (1 - eta * tau) * log_opponent + eta * tau * log_reference  # [B, K]
    return learner.step_on_pairs(duel, Scale(anchor), loss, squares=True).scalars


def gradient_step(learner: Learner, reference: Policy, duel: Duel, tau: float) -> dict[str, float]:
    """Takes one optimiser step up E[P(y beats y') - 1/2 - tau log pi/ref (y)], y the policy's and y' an opponent's.

    Args:
        learner: of the policy.
        reference: what the game is regularised towards.
        duel: samples of the policy on the left, of the opponent on the right.
        tau: KL coefficient.

    Returns:
        The policy's scalars and the step's by tag, see `Learner.step`.

    Raises:
        ValueError: if the duel is self-play, or the policy could not have drawn a response.
    """
    if duel.self_play:
        raise ValueError("the policy plays against another opponent than itself, and this duel is self-play")
    policy = learner.policy
    with torch.no_grad():
        log_policy, mask = token_logprob(policy, duel.prompts, duel.left)  # [B, K, T]
        log_reference, _ = token_logprob(reference, duel.prompts, duel.left)  # [B, K, T]
    whole_policy, whole_reference = ((one * mask).sum(-1) for one in (log_policy, log_reference))  # [B, K]
    weight = duel.right_weight[:, None, :] * duel.asked  # [B, K, L]
    total = weight.sum(2)  # [B, K], 0 of a draw whose pairs are all unread, which weighs nothing below
    reward = (weight * (duel.prob - 0.5)).sum(2) / torch.where(total > 0, total, 1)  # [B, K]
    advantage = losses.reward_to_go(reward.to(log_policy), log_policy - log_reference, mask, tau)  # [B, K, T]

    def loss(part: Batch) -> Tensor:
        log_policy, mask = token_logprob(policy, part.prompts, part.responses)  # [b, K, t]
        advantage = part["advantage"][:, :, : log_policy.shape[2]]
        return (part["weight"] * losses.policy_gradient(log_policy, advantage, mask)).sum(1)  # [b]

    values = {"advantage": advantage, "weight": duel.left_weight.to(log_policy)}
    scalars = learner.step(Batch(duel.prompts, duel.left, values), loss)
    return {**policy_scalars(duel.left_weight, whole_policy, whole_reference, duel.left), **scalars}
