"""Binary classifier optimisation on pairs: each log-ratio says by itself whether its response wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BCOConfig(PairConfig):
    """Binary classifier optimisation (Jung et al. 2024, arXiv:2404.04656), on pairs and without its reward shift."""

    beta: float = 0.1
    """KL coefficient around the reference, > 0 (DPO's 0.1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive)
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the loss of the two log-ratios."""
        return losses.bco(first, second, prob, self.beta)
