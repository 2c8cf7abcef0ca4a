"""Rank responses to align: a hinge on mean log-probabilities, and the likelihood of the best response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.scores import Score
from agents.lists.list_agent import ListConfig
from preference_duel.checks import at_least, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch


@dataclass(frozen=True)
class RRHFConfig(ListConfig):
    """RRHF (Yuan et al. 2023, arXiv:2304.05302), without a reference: nothing holds the policy to its start."""

    rrhf_weight: float = 1.0
    """Weight of the hinge beside the best response's log-likelihood, >= 0 (1 in the released scripts)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, rrhf_weight=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns the mean log pi of a response's tokens."""
        return Score(to_reference=False, per_token=True)

    def list_loss(self, score: Tensor, counted: Tensor, part: Batch) -> Tensor:
        """Returns the hinge and the best response's negative log-likelihood."""
        best = losses.of_best(score * part["length"], part["label"], counted)
        return self.rrhf_weight * losses.rrhf(score, part["label"], counted) - best
