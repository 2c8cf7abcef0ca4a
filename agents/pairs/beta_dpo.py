"""DPO whose beta follows the margins of each batch, and which leaves out the pairs of unusual margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from agents import losses
from agents.learning.scores import pair_weight, seats
from agents.losses import filtering
from agents.pairs.pair_agent import PairAgent, PairConfig
from preference_duel.checks import at_least, positive, require, within
from preference_duel.keyed_random import Key, hash_seed
from preference_duel.types import Duel

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
    """Change of beta per nat by which a batch's mean margin exceeds the running mean, >= 0 (the paper's 0.6)."""

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


class BetaDPO(PairAgent):
    """Chooses pairs and beta of a step by margins, past ones included (`margin`: mean and deviation, nats)."""

    def __init__(self, config: BetaDPOConfig, policy: Policy, seed: int) -> None:
        super().__init__(config, policy, seed)
        self.settings, self.margin = config, torch.zeros(2, dtype=torch.float64)
        self.learner.batchable = False  # beta and pairs are chosen by the margins of the whole batch

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the pairs that are kept, at the beta of their margins; raises as `PairAgent.update`."""
        config, duel = self.settings, self.compared(duel)
        if not duel.prompts:
            return self.pass_over()
        with torch.no_grad():
            margin = filtering.margins(*seats(duel, self.log_ratio(duel).double().cpu()))  # [2, B, K, L]
        won = filtering.wins(pair_weight(duel), duel.prob, duel.self_play).double()
        self.margin = MEMORY * self.margin + (1 - MEMORY) * filtering.moments(margin, won)
        key = None if duel.exact else Key(hash_seed(self.seed, "filter"), self.learner.updates)
        kept = filtering.kept(filtering.usual(margin, *self.margin), won, 1 - config.rho, key)
        lead = (kept * margin).sum() / kept.sum() - self.margin[0]
        beta = max(LEAST, config.beta * (1 + config.alpha * lead.item()))
        weight = kept.sum(0)  # [B, K, L]
        duel = replace(duel, prob=torch.where(weight > 0, kept[0] / weight, 0.5))
        weight = weight * len(duel.prompts) / weight.sum()
        return self.learn(duel, replace(config, beta=beta).pair_loss, weight) | {"loss/beta": beta}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the steps, and the running mean and deviation."""
        return {"agent": super().state_dict(), "margin": self.margin.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        super().load_state_dict(state["agent"])
        self.margin = state["margin"].clone()
