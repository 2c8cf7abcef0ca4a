"""DPO with a charge for each token: the reward of a response less its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.scores import Score
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RDPOConfig(PairConfig):
    """Length-regularised DPO (Park et al. 2024, arXiv:2403.19159).

    It is DPO with the reference ref(y) e^(-(alpha / beta) |y|): nothing else changes.
    """

    beta: float = 0.1
    """KL coefficient around the reference, > 0 (DPO's 0.1)."""

    alpha: float = 0.05
    """Charge for each token of a response, in units of the reward, >= 0; 0 is DPO. Published runs take 0.05 to 1."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, alpha=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns log-ratios to the reference with the charge."""
        return Score(charge=self.alpha / self.beta)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns DPO's loss."""
        return losses.dpo(first - second, prob, self.beta)
