"""Iterative Nash policy optimisation: mirror descent on the regularised game, each step a regression of margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents import losses
from agents.learning.learner import Training, policy_scalars
from agents.learning.pairwise import pair_step
from agents.optim.optimiser import OptimiserConfig
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy
from preference_duel.types import Duel, Proposal


@dataclass(frozen=True)
class INPOConfig:
    """Iterative Nash policy optimisation (Zhang et al. 2024, arXiv:2407.00617)."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's 7B models take 0.0025."""

    eta: float = 2.0
    """Step size of the mirror descent, 1/nats, > 0 and at most 1/tau; the paper's own eta is its inverse, and 0.0075
    there is 133 here. Each step goes a share eta tau of the way back to the start."""

    responses: int = 4
    """Draws per prompt from pi_t, K >= 2, each pair of them asked once; the paper draws 8 and keeps the best and the
    worst of a tournament. A policy that lists its whole law takes no heed of it."""

    refresh_every: int = 1
    """Updates between renewals of pi_t, the frozen policy that draws, >= 1; the paper renews it after a third of its
    prompts."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How the policy is moved."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if not 0 < self.eta * self.tau <= 1:
            raise ValueError(f"eta must lie in (0, 1/tau], got {self.eta} at tau={self.tau}: a step would overshoot")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")

    def build(self, *, policy: Policy, seed: int = 0) -> INPO:
        """Builds the agent around the policy that it trains."""
        return INPO(self, policy, seed)


class INPO:
    """Draws from a frozen pi_t and moves the policy towards pi_t^(1 - eta tau) ref^(eta tau) exp(eta P(. beats pi_t)).

    Attributes:
        policy: what is trained.
        opponent: pi_t, which draws and is played against.
        reference: what the game is regularised towards.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_worlds = True

    def __init__(self, config: INPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.opponent, self.reference = policy.frozen(), policy.frozen()
        self.average = policy.frozen() if config.average else None
        self._training = Training(
            policy, config.optimiser, opponent=self.opponent, reference=self.reference, average=self.average
        )

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of pi_t for both seats, or its whole law where it is exact."""
        key = Key(self.seed, self._training.updates, Stream.TOKEN)
        responses, weight = self.opponent.draw(prompts, self.config.responses, key)
        return Proposal(responses, left_weight=weight if self.opponent.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews pi_t when its time has come.

        Raises:
            ValueError: if the duel has no pair of one's own draws, or the policy could not have drawn a response.
        """
        config, training = self.config, self._training
        if training.updates % config.refresh_every == 0:
            training.include_in_average(self.opponent, training.updates // config.refresh_every + 1)
        with torch.no_grad():
            log_reference = self.reference.logprob(duel.prompts, duel.left)
            log_opponent = self.opponent.logprob(duel.prompts, duel.left)
        scalars = policy_scalars(duel.left_weight, log_opponent, log_reference)
        scalars["loss/learning_rate"] = training.learning_rate
        loss, grad_norm = mirror_step(training, duel, log_opponent, log_reference, config.eta, config.tau)
        training.updates += 1
        if training.updates % config.refresh_every == 0:
            self.opponent.load_state_dict(self.policy.state_dict())
        return {**scalars, "loss/policy": loss, "loss/grad_norm": grad_norm}

    def renew_reference(self) -> None:
        """Makes the current policy the reference: the outer step of a proximal method."""
        self.reference.load_state_dict(self.policy.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._training.load_state_dict(state)


def mirror_step(
    training: Training, duel: Duel, log_opponent: Tensor, log_reference: Tensor, eta: float, tau: float
) -> tuple[float, float]:
    """Takes one optimiser step towards opponent^(1 - eta tau) reference^(eta tau) exp(eta P(. beats who drew)).

    Zhang et al. 2024, arXiv:2407.00617, equation 12, with 1/eta for the paper's eta and the mean over outcomes for its
    hard label: (log pi/anchor(y) - log pi/anchor(y') - eta (P(y beats y') - 1/2))^2 over pairs of the duel's draws.

    Args:
        training: of the policy.
        duel: draws of one law in both seats.
        log_opponent: [B, K] nats.
        log_reference: [B, K] nats.
        eta: step size, 1/nats.
        tau: KL coefficient.

    Returns:
        The loss before the step, and its gradient's norm.

    Raises:
        ValueError: if the seats hold different draws.
    """
    if not duel.self_play:
        raise ValueError("a mirror step learns from pairs of one law's draws, and the seats hold different ones")
    anchor = (1 - eta * tau) * log_opponent + eta * tau * log_reference
    step = pair_step(training, duel, anchor, partial(losses.ipo, tau=1 / eta), squares=True)
    return step.loss, step.grad_norm
