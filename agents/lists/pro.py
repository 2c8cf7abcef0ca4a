"""Preference ranking optimisation: each response against all that come after it, by how far they are behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.rewards import Reward, reward
from agents.learning.scores import Score
from agents.lists.list_agent import ListConfig
from preference_duel.checks import at_least, one_of, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from preference_duel.types import Duel


@dataclass(frozen=True)
class PROConfig(ListConfig):
    """Preference ranking optimisation (Song et al. 2023, arXiv:2306.17492), without a reference."""

    sft_weight: float = 0.05
    """Weight of the best response's log-likelihood, >= 0 (the paper's 0.05); the released code multiplies it
    by (K - 1)^2, and so it is here."""

    reward: Reward = "win_rate"
    """Reward of a response: its win rate in the list, or its mean log odds, which are a file's scores; log_odds needs
    probabilities."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, sft_weight=at_least(0), reward=one_of(Reward))
        super().__post_init__()

    def score(self) -> Score:
        """Returns the mean log pi of a response's tokens."""
        return Score(to_reference=False, per_token=True)

    def labels(self, duel: Duel) -> Mapping[str, Tensor]:
        """Returns the rewards.

        Raises:
            ValueError: if log odds are wanted of outcomes.
        """
        return {"label": reward(duel, self.reward)}

    def list_loss(self, score: Tensor, counted: Tensor, part: Batch) -> Tensor:
        """Returns the contrasts and the best response's negative log-likelihood."""
        best = losses.of_best(score * part["length"], part["label"], counted)
        weight = self.sft_weight * (counted.sum(1) - 1).square()  # [b]
        return losses.pro(score, part["label"], counted) - weight * best
