"""DPO whose beta follows the margins of each batch, and which leaves out the pairs of unusual margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents import losses
from agents.learning.learner import pair_weight, seats
from agents.losses import filtering
from agents.pairs.pair_agent import PairAgent, PairConfig
from preference_duel.checks import at_least, positive, require, within
from preference_duel.keyed_random import Key, hash_seed
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy

MEMORY = 0.9
"""Weight of the past in the running mean and deviation of margins, as in the released code."""
LEAST = 1e-3
"""Least beta of a batch, as in the released code."""


@dataclass(frozen=True)
class BetaDPOConfig(PairConfig):
    """beta-DPO (Wu et al. 2024, arXiv:2407.08639): larger beta on batches whose winners lead by more."""

    beta: float = 0.1
    """KL coefficient around the reference of a batch with usual margins, > 0 (the paper's 0.1)."""

    alpha: float = 0.6
    """Relative change of beta for each nat by which a batch's mean margin exceeds the running mean, >= 0 (the paper's
    0.6); with rho 0, 0 is DPO."""

    rho: float = 0.2
    """Share of the pairs that is left out, in [0, 1): those of a margin far from the running mean (the paper's 0.2)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, alpha=at_least(0), rho=within("[0, 1)"))
        super().__post_init__()

    def build(self, *, policy: Policy, seed: int = 0) -> BetaDPO:
        """Builds the agent around the policy that it trains."""
        return BetaDPO(self, policy, seed)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns DPO's loss."""
        return losses.dpo(first - second, prob, self.beta)


class BetaDPO:
    """Measures a batch's margins, chooses its pairs and its beta, and takes DPO's step.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, if kept.
        agent: takes the steps.
        margin: [2] running mean and standard deviation of the winners' margins, nats.
    """

    learns_from_files = True

    def __init__(self, config: BetaDPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.agent = PairAgent(config, policy, seed)
        self.average = self.agent.average
        self.margin = torch.zeros(2, dtype=torch.float64)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.agent.propose(prompts)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the pairs that are kept, at the beta of their margins.

        Raises:
            ValueError: as `PairAgent.update`.
        """
        duel = self.agent.compared(duel)
        with torch.no_grad():
            first, second = seats(duel, self.agent.log_ratio(duel).double().cpu())
        margin = torch.stack([first - second, second - first])  # [2, B, K, L] of the first's win and of the second's
        won = filtering.wins(pair_weight(duel), duel.prob, duel.self_play).double()
        mean = (won * margin).sum() / won.sum()
        deviation = ((won * (margin - mean).square()).sum() / won.sum()).sqrt()
        self.margin = MEMORY * self.margin + (1 - MEMORY) * torch.stack([mean, deviation])
        kept = self._kept(filtering.usual(margin, *self.margin), won, duel.exact)
        lead = (kept * margin).sum() / kept.sum() - self.margin[0]
        beta = max(LEAST, self.config.beta * (1 + self.config.alpha * lead.item()))
        weight = kept.sum(0)  # [B, K, L]
        duel = replace(duel, prob=torch.where(weight > 0, kept[0] / weight, 0.5))
        loss = replace(self.config, beta=beta).pair_loss
        return self.agent.learn(duel, loss, weight * len(duel.prompts) / weight.sum()) | {"loss/beta": beta}

    def _kept(self, chance: Tensor, won: Tensor, exact: bool) -> Tensor:
        share = 1 - self.config.rho
        if exact:
            return filtering.expected_keep(chance, won, share)
        key = Key(hash_seed(self.seed, "filter"), self.agent.learner.updates)
        uniforms = torch.from_numpy(key.uniform(np.arange(won.numel()))).view_as(won)
        return filtering.keep(chance, won, share, uniforms)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the steps, and the running mean and deviation."""
        return {"agent": self.agent.state_dict(), "margin": self.margin.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.agent.load_state_dict(state["agent"])
        self.margin = state["margin"].clone()
