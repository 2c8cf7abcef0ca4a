"""Sequence likelihood calibration: a hinge on log-probabilities, without a reference."""

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
class SLiCConfig(PairConfig):
    """Sequence likelihood calibration, SLiC-HF (Zhao et al. 2023, arXiv:2305.10425).

    A hinge loses no more once the winner leads by delta: it keeps the order of two responses and forgets by how much.
    """

    delta: float = 1.0
    """Margin of log-probabilities beyond which nothing is lost, nats, >= 0."""

    lam: float = 0.1
    """Weight of the winners' log-likelihood, which keeps the policy in place, >= 0 (the paper tunes it; 0.1 in released
    code)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, delta=at_least(0), lam=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns log pi, summed over tokens."""
        return Score(to_reference=False)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the hinge of the log-probabilities and the regulariser."""
        return losses.slic(first, second, prob, self.delta, self.lam)
