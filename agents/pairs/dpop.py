"""DPO-positive: DPO with a charge where a winner is less likely than under the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPOPConfig(PairConfig):
    """DPO-positive (Pal et al. 2024, arXiv:2402.13228): winners do not become less likely for the sake of a margin."""

    beta: float = 0.3
    """KL coefficient around the reference, > 0 (the paper's 0.3)."""

    lam: float = 50.0
    """Charge for each nat by which a winner is less likely than under the reference, >= 0; 0 is DPO. The paper's 50."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, lam=at_least(0))
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns DPO's loss with the charge."""
        return losses.dpop(first, second, prob, self.beta, self.lam)
