"""Self-play preference optimisation by reward: the win rate against one's own draws, maximised by policy gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents import losses
from agents.base import Policy
from agents.optimisers import OptimiserConfig
from agents.training import Batch, Training, policy_scalars, token_logprob
from envs.keyed import Key, Stream
from envs.types import Duel, Proposal

Form = Literal["reinforce", "grpo", "ppo"]


@dataclass(frozen=True)
class SPOConfig:
    """Self-play preference optimisation (Swamy et al. 2024, arXiv:2401.04056): play for the win rate, keep the average.

    The paper takes any no-regret learner on the reward; its guarantee is for the average policy.
    """

    form: Literal["reinforce", "grpo", "ppo"] = "reinforce"
    """How the reward moves the policy. reinforce: leave-one-out baseline. grpo: divided by its spread over the draws.
    ppo: steps on the same duel with the ratio to who drew clipped."""

    tau: float = 0.0
    """KL coefficient around the starting policy, >= 0; the paper's game has none."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once. A policy that lists its whole law takes no heed of it."""

    epochs: int = 1
    """Steps on each duel, >= 1; more than one with form ppo alone."""

    clip: float = 0.2
    """ppo: how far the ratio may move from 1 before it stops paying, > 0."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T, which the theory speaks of; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How the policy is moved."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {self.form!r}")
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, got {self.tau}")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        if self.epochs < 1 or (self.epochs > 1 and self.form != "ppo"):
            raise ValueError(f"epochs must be 1, or more with form='ppo', got {self.epochs} with {self.form!r}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")

    def build(self, *, policy: Policy, seed: int = 0) -> SPO:
        """Builds the agent around the policy that it trains."""
        return SPO(self, policy, seed)


class SPO:
    """Draws from the policy, and moves it towards the draws that beat the others.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    def __init__(self, config: SPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.average = policy.frozen() if config.average else None
        self._start = policy.frozen()
        self._training = Training(policy, config.optimiser, average=self.average, start=self._start)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws for both seats, or the whole law where the policy is exact."""
        key = Key(self.seed, self._training.updates, Stream.TOKEN)
        with torch.no_grad():
            responses, weight = self.policy.draw(prompts, self.config.responses, key)
        return Proposal(responses, left_weight=weight if self.policy.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step, with ppo some, on the win rates of the duel's draws.

        Raises:
            ValueError: if the seats hold different draws.
        """
        if not duel.self_play:
            raise ValueError("SPO learns from its own draws, and this duel's seats hold different ones")
        training = self._training
        training.include_in_average(self.policy, training.updates + 1)
        with torch.no_grad():
            log_policy, mask = token_logprob(self.policy, duel.prompts, duel.left)
            log_start, _ = token_logprob(self._start, duel.prompts, duel.left)
        reward = losses.win_rate(duel.prob, duel.right_weight, leave_one_out=not duel.exact) - 0.5
        advantage = losses.advantage(reward.to(log_policy), self.config.form, duel.exact)
        earned = losses.reward_to_go(advantage, log_policy - log_start, mask, self.config.tau)
        weight = duel.left_weight.to(log_policy)
        batch = Batch(duel.prompts, duel.left, {"earned": earned, "weight": weight, "drew": log_policy})
        scalars = policy_scalars(duel.left_weight, log_policy.sum(-1), log_start.sum(-1))
        scalars["loss/learning_rate"] = training.learning_rate
        steps = [training.fit(batch, self._loss) for _ in range(self.config.epochs)]
        training.updates += 1
        return {**scalars, "loss/spo": steps[0][0], "loss/grad_norm": steps[-1][1]}

    def _loss(self, part: Batch) -> Tensor:
        """Returns [b] the surrogate of each prompt."""
        log_policy, mask = token_logprob(self.policy, part.prompts, part.responses)
        width = log_policy.shape[2]
        earned, drew = part["earned"][:, :, :width], part["drew"][:, :, :width]
        if self.config.form == "ppo":
            surrogate = losses.clipped(log_policy, drew, earned, mask, self.config.clip)
        else:
            surrogate = losses.policy_gradient(log_policy, earned, mask)
        return (part["weight"] * surrogate).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._training.load_state_dict(state)
