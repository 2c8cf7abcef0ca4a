"""Anchored preference optimisation: says whether winners become likelier, or just losers less likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents import losses
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import one_of, positive, require

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["zero", "down"]

LOSSES = {"zero": losses.apo_zero, "down": losses.apo_down}


@dataclass(frozen=True)
class APOConfig(PairConfig):
    """Anchored preference optimisation (D'Oosterlinck et al. 2024, arXiv:2408.06266)."""

    beta: float = 0.1
    """KL coefficient around the reference, > 0 (the paper's 0.1)."""

    form: Form = "zero"
    """zero: winners become likelier and losers less likely, for winners better than the policy. down: both become less
    likely, losers more so, for winners worse than the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, form=one_of(Form))
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the loss of the two log-ratios."""
        return LOSSES[self.form](first, second, prob, self.beta)
