"""Pairwise CRINGE: the loss of a winner and a loser, counted for as long as the winner does not lead."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.scores import Score
from agents.pairs.pair_agent import PairConfig
from agents.tokens.cringe import contrasts
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairwiseCRINGEConfig(PairConfig):
    """Pairwise CRINGE (Xu et al. 2023, arXiv:2312.16682)."""

    weight: float = 1.0
    """Weight of the loser's contrast, >= 0 (CRINGE's 1); 0 learns from winners alone."""

    top_k: int = 1
    """Likeliest other tokens that a loser's token is contrasted with, >= 1 (CRINGE's 1)."""

    margin: float = 0.0
    """Nats by which a winner's log-probability is to lead; a pair that leads by more counts less than half."""

    temperature: float = 10.0
    """Nats over which a pair's weight falls from 3/4 to 1/4 about the margin, divided by 2 log 3; > 0."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, weight=at_least(0), top_k=at_least(1), temperature=positive)
        super().__post_init__()

    def score(self) -> Score:
        """Returns log pi, and beside it the sum of the contrasts of a response's tokens."""
        return Score(to_reference=False, term=partial(contrasts, self.top_k))

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the winner's and the loser's loss, times the weight of the pair."""
        return losses.pairwise_cringe(first, second, prob, self.weight, self.margin, self.temperature)
