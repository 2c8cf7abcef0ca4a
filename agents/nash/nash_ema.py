"""Nash-EMA: plays against the exponential moving average of its own past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.learning.learning_agent import LearningAgent
from agents.learning.nash_steps import gradient_step
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require, within
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class NashEMAConfig:
    """Nash-EMA (Munos et al. 2023, arXiv:2312.00886): Nash-MD's gradient against an averaged opponent."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's summarisation takes 0.008."""
    decay: float = 0.999
    """Share of the opponent that stays at each update, in [0, 1); 0 is the policy before the update."""
    responses: int = 4
    """Samples per prompt, K >= 1, of each seat; each left one meets one right one. Ignored if the policy is exact."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive, decay=within("[0, 1)", "at 1 the opponent stays the start"), responses=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> NashEMA:
        """Builds the agent around the policy that it trains."""
        return NashEMA(self, policy, seed)


class NashEMA(LearningAgent):
    """Moves the policy to beat `opponent`, the average of its past weights, of tables of its past probabilities."""

    def __init__(self, config: NashEMAConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent, self.reference = config, policy.running_mean(), policy.snapshot()
        copies = {"opponent": self.opponent, "reference": self.reference}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of the policy against K of the opponent, or both whole distributions if they are exact."""
        return self.against(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step, and moves the opponent towards the policy.

        Raises:
            ValueError: if the duel is self-play, or the policy could not have sampled a response.
        """
        self.include_in_average(self.policy)
        scalars = gradient_step(self.learner, self.reference, duel, self.config.tau)
        self.opponent.blend(self.policy, 1 - self.config.decay)
        return scalars
