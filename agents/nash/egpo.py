"""Extragradient preference optimisation: looks half a step ahead before it steps."""

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
class EGPOConfig:
    """Extragradient preference optimisation (Zhou et al. 2025, arXiv:2503.08942)."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, >= 0 (the paper's 0.1); at 0 the game is not
    regularised, and the last iterate still converges."""
    eta: float = 2.0
    """Step size of the mirror descent, 1/nats, > 0, eta tau at most 1."""
    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once. Ignored if the policy is exact."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy; the paper takes one step of AdamW for each half."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        require(self, tau=at_least(0), eta=positive, responses=at_least(2, "one draw has no other to beat"))
        if self.eta * self.tau > 1:
            raise ValueError(f"eta tau must be at most 1, got eta={self.eta}, tau={self.tau}")

    def build(self, *, policy: Policy, seed: int = 0) -> EGPO:
        """Builds the agent around the policy that it trains."""
        return EGPO(self, policy, seed)


class EGPO(LearningAgent):
    """Takes turns: a half step from pi_t against pi_t, then a whole step from pi_t against the half-way policy.

    Attributes:
        policy: pi_t, from which both steps start.
        half: the half-way policy, which draws in every second duel.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    def __init__(self, config: EGPOConfig, policy: Policy, seed: int) -> None:
        self.config = config
        self.half, self.reference, self.start = policy.snapshot(), policy.snapshot(), policy.running_mean()
        copies = {"start": self.start, "half": self.half, "reference": self.reference}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of pi_t, or in turn of the half-way policy, or the whole distribution if it is exact."""
        return self.self_play(self._player, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes a half step, or in turn the whole one.

        Raises:
            ValueError: if the duel has no pair of one's own draws, or the policy could not have drawn a response.
        """
        is_half_step = self.learner.updates % 2 == 0
        if is_half_step:
            self.include_in_average(self.policy, every=2)
            self.start.load_state_dict(self.policy.state_dict())
        log_reference, log_player, log_policy = left_logprob(duel, self.reference, self._player, self.policy)
        scalars = policy_scalars(duel.left_weight, log_player, log_reference, duel.left)
        scalars |= mirror_step(self.learner, duel, log_policy, log_reference, self.config.eta, self.config.tau)
        if is_half_step:
            self.half.load_state_dict(self.policy.state_dict())
            self.policy.load_state_dict(self.start.state_dict())
        return scalars

    @property
    def _player(self) -> Policy:
        """The policy that samples and is played against."""
        return self.policy if self.learner.updates % 2 == 0 else self.half
