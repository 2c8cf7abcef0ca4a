"""Odds ratio preference optimisation: supervised fine-tuning on winners with a ratio of odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.scores import Score
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import at_least, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ORPOConfig(PairConfig):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): one stage, no reference."""

    lam: float = 0.1
    """Weight of the odds ratio beside the winners' log-likelihood, >= 0 (the paper's 0.1 on most models)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, lam=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns the mean log pi of a response's tokens."""
        return Score(to_reference=False, per_token=True)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the winner's negative log-likelihood and the odds ratio's loss."""
        return losses.orpo(first, second, prob, self.lam)
