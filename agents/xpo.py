"""Exploratory preference optimisation: DPO against the start's draws, with a bonus for leaving what the start says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


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
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive, alpha=at_least(0), responses=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> XPO:
        """Builds the agent around the policy that it trains."""
        return XPO(self, policy, seed)


class XPO(LearningAgent):
    """Plays against the start and classifies the winner, optimistic about what the start does not sample.

    Attributes:
        policy: what is trained.
        reference: the start, which plays the second seat.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    def __init__(self, config: XPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.reference = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, reference=self.reference)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the policy against K of the start, or both whole distributions if they are exact."""
        return self.against(self.reference, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step.

        Raises:
            ValueError: if the duel is self-play, or the policy could not have drawn a response.
        """
        if duel.self_play:
            raise ValueError("XPO plays against the start, and this duel is self-play")
        self.include_in_average(self.policy)
        k = len(duel.left[0])

        def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
            return losses.dpo(first - second, prob, self.config.tau)  # [b, K, L] -log sigma(tau margin of the winner)

        def bonus(ratio: Tensor, weight: Tensor) -> Tensor:
            return self.config.alpha * (weight.sum(1) * ratio[:, k:]).sum(1)  # [b] alpha E[log pi/ref (y')], y' of ref

        step = self.step_on_pairs(duel, self.reference, loss, extra=bonus)
        return step.policy_scalars(duel) | step.scalars
