"""Multiplayer Nash preference optimisation: mirror descent whose anchor is several of the last policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agents.learning.learning_agent import LearningAgent
from agents.learning.nash_steps import left_logprob, mirror_step
from agents.learning.scalars import policy_scalars
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class MNPOConfig:
    """Multiplayer Nash preference optimisation (Wu et al. 2025, arXiv:2509.23102), with time-dependent opponents."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0."""
    eta: float = 2.0
    """Step size, 1/nats, > 0 and at most 1/tau (the code's ratio is eta tau, its eta the inverse of this one)."""
    opponents: int = 2
    """Past policies pi_t, pi_{t-1}, ... whose weighted geometric mean is the anchor, >= 1, each a copy; 1 is INPO."""
    history_weights: tuple[float, ...] | None = None
    """Weights of these policies, the last one first, >= 0; scaled to sum to 1. None: all count alike."""
    responses: int = 4
    """Samples per prompt from pi_t, K >= 2, each pair compared once. Ignored if the policy is exact."""
    refresh_every: int = 1
    """Updates between renewals of the past policies, >= 1."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, tau=positive, eta=positive, opponents=at_least(1), responses=sampled, refresh_every=at_least(1))
        if self.eta * self.tau > 1:
            raise ValueError(f"eta must lie in (0, 1/tau], got {self.eta} at tau={self.tau}: a step would overshoot")
        weights = (1.0,) if self.history_weights is None else self.history_weights
        if self.history_weights is not None and len(weights) != self.opponents:
            raise ValueError(f"history_weights must be {self.opponents}, one for each opponent, got {len(weights)}")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"history_weights must be at least 0, and not all 0, got {weights}")

    def build(self, *, policy: Policy, seed: int = 0) -> MNPO:
        """Builds the agent around the policy that it trains."""
        return MNPO(self, policy, seed)


class MNPO(LearningAgent):
    """Samples from pi_t, moves towards (prod_j pi_{t-j}^w_j)^(1 - eta tau) ref^(eta tau) exp(eta P(. beats pi_t))."""

    def __init__(self, config: MNPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.reference = config, policy.snapshot()
        self.past = [policy.snapshot() for _ in range(config.opponents)]  # pi_t, pi_{t-1}, ...
        copies = {f"opponent{j}": one for j, one in enumerate(self.past)}
        super().__init__(policy, config.optimiser, seed, average=config.average, reference=self.reference, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.past[0], prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews the past policies when it is due.

        Raises:
            ValueError: if the duel has no pair of own samples, or the policy could not have sampled a response.
        """
        config = self.config
        self.include_in_average(self.policy, config.refresh_every)
        weight = torch.tensor(config.history_weights or [1.0] * config.opponents, dtype=torch.float64)
        log_reference, *past = left_logprob(duel, self.reference, *self.past)
        log_past = torch.stack(past)  # [n, B, K]
        mean = ((weight / weight.sum()).to(log_past)[:, None, None] * log_past).sum(0)
        scalars = mirror_step(self.learner, duel, mean, log_reference, config.eta, config.tau)
        if self.learner.updates % config.refresh_every == 0:
            for older, newer in zip(self.past[:0:-1], self.past[-2::-1], strict=True):
                older.load_state_dict(newer.state_dict())
            self.renew(self.past[0])
        return policy_scalars(duel.left_weight, log_past[0], log_reference, duel.left) | scalars
