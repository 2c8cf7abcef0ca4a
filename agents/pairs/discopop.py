"""Discovered preference optimisation: logistic and exponential losses blended by the margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DiscoPOPConfig(PairConfig):
    """Discovered preference optimisation (Lu et al. 2024, arXiv:2406.08414), the log-ratio modulated loss."""

    beta: float = 0.05
    """KL coefficient around the reference, > 0 (the paper's 0.05)."""

    temperature: float = 0.05
    """Width of the blend, in units of beta times the margin, > 0 (the paper's tau, 0.05)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, temperature=positive)
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the blended loss of the margin."""
        return losses.discopop(first - second, prob, self.beta, self.temperature)
