"""Noise-contrastive alignment: keeps a winner's likelihood from falling with the loser's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NCAConfig(PairConfig):
    """Noise-contrastive alignment of pairs (Chen et al. 2024, arXiv:2402.05369): of log-ratios, not of margins."""

    beta: float = 0.01
    """KL coefficient around the reference, > 0 (the paper's 0.01)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive)
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the contrastive loss of the two log-ratios."""
        return losses.nca(first, second, prob, self.beta)
