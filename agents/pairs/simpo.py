"""Simple preference optimisation: mean log-probabilities and a target margin, without a reference."""

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
class SimPOConfig(PairConfig):
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734).

    At gamma 0 it ends at exp(|y| (R + c) / beta) for rewards R, c such that this sums to 1: wherever it starts.
    """

    beta: float = 2.5
    """Scale of the reward, > 0 (the released runs' 2.5; the paper tunes it in 2 to 10)."""

    gamma: float = 1.375
    """Margin by which a winner's reward is to lead, >= 0 (the released runs' 0.55 beta)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, gamma=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns the mean log pi of a response's tokens."""
        return Score(to_reference=False, per_token=True)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the loss of the mean log-probabilities."""
        return losses.simpo(first, second, prob, self.beta, self.gamma)
