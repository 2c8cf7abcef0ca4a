"""Self-play identity preference optimisation: regresses margins onto preferences between own samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.scores import Score
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require, within
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class IPOConfig:
    """Self-play IPO (Calandriello et al. 2024, arXiv:2403.08635): converges to the tau-regularised Nash policy."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's summarisation takes 0.1 to 1."""
    responses: int = 4
    """Samples per prompt, K >= 2, each pair compared once; the paper takes 2. Ignored if the policy is exact."""
    mixture: float = 0.0
    """Share b of the start in what samples, pi^(1-b) ref^b token by token, in [0, 1); IPO-MD, with 0.125, above 0."""
    length_normalised: bool = False
    """Divide log-ratios by the responses' tokens, as some released codes do; the paper's are sums."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(decay=200.0))
    """Momentum may keep the last iterate from converging on a cycle; the decay, which is ours, ends outcomes' noise."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, tau=positive, responses=sampled, mixture=within("[0, 1)", "at 1 the start plays with itself"))

    def build(self, *, policy: Policy, seed: int = 0) -> IPO:
        """Builds the agent around the policy that it trains."""
        return IPO(self, policy, seed)


class IPO(LearningAgent):
    """Samples independent responses of the policy itself and moves their margins towards (P - 1/2) / tau."""

    learns_from_files = True

    def __init__(self, config: IPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.own_draws, self.reference = config, config.mixture == 0, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.reference)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.mixed(self.reference, self.config.mixture), prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the pairs of a duel: own samples, or pairs of a file (Azar et al. 2023).

        Raises:
            ValueError: if the duel has no compared pair, or a response that the policy could not have sampled.
        """
        self.include_in_average(self.policy)
        score = Score(per_token=self.config.length_normalised)

        def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
            return losses.ipo(first - second, prob, self.config.tau)  # [b, K, L] (margin - (P - 1/2) / tau)^2

        step = self.step_on_pairs(duel, self.reference, loss, score=score, squares=True)
        return step.policy_scalars(duel) | step.scalars if self.own_draws and duel.self_play else step.scalars
