"""Direct Nash optimisation: fits log-ratios to the last policy to the win rates against it, by cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.rewards import win_rate
from agents.learning.scores import pair_weight
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, positive, require, share
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class DNOConfig:
    """Direct Nash optimisation (Rosset et al. 2024, arXiv:2404.03715)."""

    beta: float = 0.1
    """KL coefficient around pi_t, > 0 (the paper's eta): a step of multiplicative weights of size 1 / beta."""
    practical: bool = False
    """DNO-Prct: the better response of a pair counts as a certain winner, of pairs that are at least `margin` apart."""
    margin: float = 0.0
    """Least difference of win rates of a pair, in [0, 1]; in the practical form alone. The paper keeps large ones."""
    responses: int = 4
    """Samples per prompt from pi_t, K >= 2, each pair compared once (the paper's 5). Ignored if the policy is exact."""
    refresh_every: int = 1
    """Updates between renewals of pi_t, which samples and is the reference, >= 1; the paper's are passes over a set."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T, which is what converges on cyclic games; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range or would be ignored."""
        require(self, beta=positive, margin=share, responses=at_least(2), refresh_every=at_least(1))
        if self.margin and not self.practical:
            raise ValueError(f"margin={self.margin:g} is of the practical form; add practical, or leave it out")

    def build(self, *, policy: Policy, seed: int = 0) -> DNO:
        """Builds the agent around the policy that it trains."""
        return DNO(self, policy, seed)


class DNO(LearningAgent):
    """Plays samples of a frozen pi_t (`opponent`), whose solved step is pi_t exp(P(. beats pi_t) / beta) / Z."""

    learns_from_files = learns_from_lists = True

    def __init__(self, config: DNOConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, opponent=self.opponent)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the list's pairs; renews pi_t every `refresh_every` updates.

        Raises:
            ValueError: if the seats hold different responses, or the policy could not have sampled one.
        """
        config, rate = self.config, win_rate(duel)  # [B, K]
        self.include_in_average(self.policy, config.refresh_every)
        lead = rate[:, :, None] - rate[:, None, :]  # [B, K, K]
        weight, prob = pair_weight(duel), torch.sigmoid(lead)
        if config.practical:
            kept = weight * ((lead != 0) & (lead.abs() >= config.margin))
            weight = kept * (len(kept) / kept.sum().clamp(min=torch.finfo(kept.dtype).tiny))  # no pair: no step
            prob = (lead > 0).to(lead)

        def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
            return losses.dpo(first - second, prob, config.beta)

        step = self.step_on_pairs(replace(duel, prob=prob), self.opponent, loss, weight=weight)
        self.renew(self.opponent, config.refresh_every)
        if duel.given:
            return step.scalars
        return step._replace(log_policy=step.log_reference, log_reference=None).policy_scalars(duel) | step.scalars
