"""Exploratory preference optimisation: DPO against the start's draws, with a bonus for leaving what the start says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents import losses
from agents.learning.learner import Training, policy_scalars
from agents.learning.pairwise import pair_step, responses_of
from agents.optim.optimiser import OptimiserConfig
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy
from preference_duel.types import Duel, Proposal


@dataclass(frozen=True)
class XPOConfig:
    """Exploratory preference optimisation (Xie et al. 2024, arXiv:2405.21046), online.

    It fits a Bradley-Terry reward: on cyclic preferences it has no reason to reach an equilibrium.
    """

    tau: float = 0.1
    """KL coefficient around the starting policy, > 0 (the paper's beta, 0.1)."""

    alpha: float = 1e-5
    """Weight of the bonus, >= 0; 0 is DPO on pairs of a draw of the policy and one of the start. The paper's 1e-5."""

    responses: int = 4
    """Draws per prompt of each seat, >= 1; each one of the policy meets one of the start."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How the policy is moved."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")
        if self.responses < 1:
            raise ValueError(f"responses must be at least 1, got {self.responses}")

    def build(self, *, policy: Policy, seed: int = 0) -> XPO:
        """Builds the agent around the policy that it trains."""
        return XPO(self, policy, seed)


class XPO:
    """Plays against the start and classifies who won, optimistic about what the start does not say.

    Attributes:
        policy: what is trained.
        reference: the start, which plays the second seat.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_worlds = True

    def __init__(self, config: XPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.reference = policy.frozen()
        self.average = policy.frozen() if config.average else None
        self._training = Training(policy, config.optimiser, reference=self.reference, average=self.average)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the policy against K of the start, or both whole laws where they are exact."""
        count, key = self.config.responses, Key(self.seed, self._training.updates, Stream.TOKEN)
        with torch.no_grad():
            left, left_weight = self.policy.draw(prompts, count, key)
        right, right_weight = self.reference.draw(prompts, count, Key(key.seed, key.episode, Stream.OPPONENT))
        if self.policy.exact:
            return Proposal(left, right, left_weight, right_weight)
        return Proposal(left, right, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step.

        Raises:
            ValueError: if the duel is self-play, or the policy could not have drawn a response.
        """
        if duel.self_play:
            raise ValueError("XPO plays against the start, and this duel is self-play")
        training, count = self._training, len(duel.left[0])
        training.include_in_average(self.policy, training.updates + 1)
        with torch.no_grad():
            log_reference = self.reference.logprob(duel.prompts, responses_of(duel))
        rate = training.learning_rate
        step = pair_step(
            training, duel, log_reference, partial(losses.dpo, beta=self.config.tau), extra=partial(self._bonus, count)
        )
        training.updates += 1
        scalars = policy_scalars(duel.left_weight, step.log_policy[:, :count], log_reference[:, :count])
        return {**scalars, "loss/learning_rate": rate, "loss/policy": step.loss, "loss/grad_norm": step.grad_norm}

    def _bonus(self, count: int, ratio: Tensor, weight: Tensor) -> Tensor:
        """Returns [b] alpha E[log pi/ref (y')] over the start's draws, which is to fall."""
        return self.config.alpha * (weight.sum(1) * ratio[:, count:]).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._training.load_state_dict(state)
