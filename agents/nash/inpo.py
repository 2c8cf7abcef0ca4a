"""Iterative Nash policy optimisation: mirror descent on the regularised game, each step a regression of margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.learner import LearningAgent, Scale, policy_scalars
from agents.optim.optimiser import OptimiserConfig
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.learner import Learner
    from preference_duel.protocols import Policy


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
    worst of a tournament. Ignored if the policy is exact."""

    refresh_every: int = 1
    """Updates between renewals of pi_t, the frozen policy that draws, >= 1; the paper renews it after a third of its
    prompts."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

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


class INPO(LearningAgent):
    """Draws from a frozen pi_t and moves the policy towards pi_t^(1 - eta tau) ref^(eta tau) exp(eta P(. beats pi_t)).

    Attributes:
        policy: what is trained.
        opponent: pi_t, which draws and is played against.
        reference: what the game is regularised towards.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    def __init__(self, config: INPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent, self.reference = config, policy.snapshot(), policy.snapshot()
        copies = {"opponent": self.opponent, "reference": self.reference}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews pi_t when its time has come.

        Raises:
            ValueError: if the duel has no pair of one's own draws, or the policy could not have drawn a response.
        """
        config = self.config
        self.include_in_average(self.policy, config.refresh_every)
        with torch.no_grad():
            log_reference = self.reference.logprob(duel.prompts, duel.left)  # [B, K]
            log_opponent = self.opponent.logprob(duel.prompts, duel.left)  # [B, K]
        scalars = policy_scalars(duel.left_weight, log_opponent, log_reference, duel.left)
        scalars |= mirror_step(self.learner, duel, log_opponent, log_reference, config.eta, config.tau)
        self.renew(self.opponent, config.refresh_every)
        return scalars

    def renew_reference(self) -> None:
        """Makes the current policy the reference: the outer step of a proximal method."""
        self.reference.load_state_dict(self.policy.state_dict())


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
