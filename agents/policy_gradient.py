"""One step, or some, of a policy gradient on rewards of whole responses: what SPO and RLHF have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from agents import losses
from agents.base import Policy
from agents.training import Batch, Training, policy_scalars, token_logprob
from envs.types import Completion

Form = Literal["reinforce", "grpo", "ppo"]


@dataclass(frozen=True)
class GradientConfig:
    """How rewards move a policy."""

    form: Literal["reinforce", "grpo", "ppo"] = "reinforce"
    """reinforce: leave-one-out baseline. grpo: divided by its spread over the draws. ppo: steps on the same draws with
    the ratio to who drew clipped."""

    epochs: int = 1
    """Steps on each batch of draws, >= 1; more than one with form ppo alone."""

    clip: float = 0.2
    """ppo: how far the ratio may move from 1 before it stops paying, > 0."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {self.form!r}")
        if self.epochs < 1 or (self.epochs > 1 and self.form != "ppo"):
            raise ValueError(f"epochs must be 1, or more with form='ppo', got {self.epochs} with {self.form!r}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")


@dataclass(frozen=True)
class Draws:
    """What a policy drew: prompts, responses [B][K], weights [B, K], and whether they are its whole law."""

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    weight: Tensor
    exact: bool


def gradient_step(
    training: Training, start: Policy, draws: Draws, reward: Tensor, tau: float, config: GradientConfig
) -> dict[str, float]:
    """Moves a policy up the gradient of E[reward] - tau KL(policy || start).

    Args:
        training: of the policy that drew.
        start: what the KL term pulls towards.
        draws: its draws.
        reward: [B, K] of whole responses.
        tau: KL coefficient, at least 0.
        config: how.

    Returns:
        Scalars by tag, and the surrogate before the step under "loss".
    """
    policy = training.policy
    with torch.no_grad():
        drew, mask = token_logprob(policy, draws.prompts, draws.responses)
        log_start, _ = token_logprob(start, draws.prompts, draws.responses)
    advantage = losses.advantage(reward.to(drew), config.form, draws.exact)
    earned = losses.reward_to_go(advantage, drew - log_start, mask, tau)

    def loss(part: Batch) -> Tensor:
        log_policy, mask = token_logprob(policy, part.prompts, part.responses)
        width = log_policy.shape[2]
        earned, drew = part["earned"][:, :, :width], part["drew"][:, :, :width]
        if config.form == "ppo":
            surrogate = losses.clipped(log_policy, drew, earned, mask, config.clip)
        else:
            surrogate = losses.policy_gradient(log_policy, earned, mask)
        return (part["weight"] * surrogate).sum(1)

    values = {"earned": earned, "weight": draws.weight.to(drew), "drew": drew}
    batch = Batch(draws.prompts, draws.responses, values)
    scalars = policy_scalars(draws.weight, drew.sum(-1), log_start.sum(-1))
    scalars["loss/learning_rate"] = training.learning_rate
    steps = [training.fit(batch, loss) for _ in range(config.epochs)]
    return {**scalars, "loss": steps[0][0], "loss/grad_norm": steps[-1][1]}
