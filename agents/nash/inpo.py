"""Iterative Nash policy optimisation: mirror descent on the regularised game, each step a regression of margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.learning.learning_agent import LearningAgent
from agents.learning.nash_steps import left_logprob, mirror_step
from agents.learning.scalars import policy_scalars
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
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
        require(self, tau=positive, responses=at_least(2, "one draw has no other to beat"), refresh_every=at_least(1))
        if not 0 < self.eta * self.tau <= 1:
            raise ValueError(f"eta must lie in (0, 1/tau], got {self.eta} at tau={self.tau}: a step would overshoot")

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
        log_reference, log_opponent = left_logprob(duel, self.reference, self.opponent)
        scalars = policy_scalars(duel.left_weight, log_opponent, log_reference, duel.left)
        scalars |= mirror_step(self.learner, duel, log_opponent, log_reference, config.eta, config.tau)
        self.renew(self.opponent, config.refresh_every)
        return scalars
