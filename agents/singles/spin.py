"""Self-play fine-tuning: tells demonstrations from samples of the policy before, as DPO tells winners from losers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.scalars import policy_scalars
from agents.learning.scores import responses_of
from agents.optim.optimiser import OptimiserConfig
from agents.singles.single_agent import labels
from preference_duel.checks import at_least, positive, require
from preference_duel.keyed_random import Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class SPINConfig:
    """Self-play fine-tuning (Chen et al. 2024, arXiv:2401.01335); what was liked, or has won, is a demonstration."""

    lam: float = 0.1
    """lambda of the paper's equation 4.7, > 0 (the released code's beta, 0.1): a solved step is
    pi_t (demonstrations / pi_t)^(1 / lam) / Z."""
    responses: int = 4
    """Samples per prompt of pi_t that are judged, K >= 2, and as many that demonstrations are told from. Ignored if the
    policy is exact."""
    refresh_every: int = 1
    """Updates between renewals of pi_t, which samples and is the reference, >= 1; the paper's are passes over a set."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, lam=positive, responses=sampled, refresh_every=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> SPIN:
        """Builds the agent around the policy that it trains."""
        return SPIN(self, policy, seed)


class SPIN(LearningAgent):
    """Pairs every demonstration with fresh samples of a frozen pi_t (`opponent`), which lose with certainty."""

    learns_from_files = learns_from_thumbs = learns_from_lists = learns_from_likes = True

    def __init__(self, config: SPINConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, opponent=self.opponent)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's demonstrations; renews pi_t every `refresh_every` updates.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        config, (label, weight) = self.config, labels(duel)  # [B, K]
        self.include_in_average(self.policy, config.refresh_every)
        with torch.no_grad():
            own, own_weight = self.opponent.draw(duel.prompts, config.responses, self.key(Stream.OPPONENT))
        count = weight[:, :, None] * own_weight.to(weight)[:, None, :]  # [B, K, N]
        won = torch.ones_like(count)
        shown = responses_of(duel)
        pairs = Duel(duel.prompts, shown, own, won, weight, own_weight, won > 0, "outcome", 1, duel.exact)

        def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
            return losses.dpo(first - second, prob, config.lam)

        step = self.step_on_pairs(pairs, self.opponent, loss, weight=label[:, :, None] * count)
        assert step.log_reference is not None
        self.renew(self.opponent, config.refresh_every)
        return policy_scalars(own_weight, step.log_reference[:, len(shown[0]) :], None, own) | step.scalars
