"""Contrastive preference optimisation: DPO with a uniform reference and a likelihood of winners."""

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
class CPOConfig(PairConfig):
    """Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417)."""

    beta: float = 0.1
    """Temperature of the preference, > 0 (the paper's 0.1)."""

    alpha: float = 1.0
    """Weight of the winners' log-likelihood, >= 0 (the paper's 1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, alpha=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns log pi, summed over tokens."""
        return Score(to_reference=False)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the contrast of log-probabilities and the log-likelihood of the winner."""
        return losses.cpo(first, second, prob, self.beta, self.alpha)
