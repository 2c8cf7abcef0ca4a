"""Supervised fine-tuning: the likelihood of demonstrations, or of the responses that won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.learning.learning_agent import LearningAgent
from agents.optim.optimiser import OptimiserConfig
from agents.singles.single_agent import likes, own_samples
from preference_duel.checks import at_least, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning, the first stage of Ouyang et al. 2022 (arXiv:2203.02155, Section 3.5).

    On demonstrations it ends at their distribution, on pairs at that of the winners.
    """

    responses: int = 4
    """Samples per prompt, K >= 2, each pair of them compared once. Ignored if the policy is exact."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, responses=at_least(2, "one sample has no other to beat"))

    def build(self, *, policy: Policy, seed: int = 0) -> SFT:
        """Builds the agent around the policy that it trains."""
        return SFT(self, policy, seed)


class SFT(LearningAgent):
    """Makes responses likely, in proportion to how well each was liked: a file's, or its own samples."""

    learns_from_files = True
    learns_from_thumbs = True
    learns_from_lists = True
    learns_from_likes = True

    def __init__(self, config: SFTConfig, policy: Policy, seed: int) -> None:
        self.config = config
        super().__init__(policy, config.optimiser, seed, average=config.average)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.policy, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the mean negative log-likelihood of what was liked; a prompt without any counts 0.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        self.include_in_average(self.policy)

        def loss(log_policy: Tensor, part: Batch) -> Tensor:
            return -(part["liked"] * log_policy).sum(1)

        step = self.step_on_scores(duel, None, loss, {"liked": likes(duel)})
        return step.policy_scalars(duel) | step.scalars if own_samples(duel) else step.scalars
