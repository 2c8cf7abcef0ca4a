"""Generalised preference optimisation: a function of the margin of log-ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents import losses
from agents.losses.classification import FUNCTIONS
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import one_of, positive, require

if TYPE_CHECKING:
    from torch import Tensor

Function = Literal["logistic", "exponential", "squared", "truncated_quadratic", "hinge", "savage"]


@dataclass(frozen=True)
class GPOConfig(PairConfig):
    """Generalised preference optimisation (Tang et al. 2024, arXiv:2402.05749): DPO, IPO, SLiC and three more.

    Where two responses are all there are, the margin that it ends at times beta is logit P (logistic, savage),
    logit(P) / 2 (exponential), 2P - 1 (squared, truncated_quadratic) or the sign of 2P - 1 (hinge).
    """

    beta: float = 0.1
    """KL coefficient around the reference, > 0 (the paper tunes it; DPO's 0.1)."""

    function: Function = "logistic"
    """logistic is DPO; squared is IPO at tau = beta / 2, but for a constant; hinge is RSO's hinge-norm; exponential,
    truncated_quadratic and savage are those of boosting, of support vector machines and of a bounded loss."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, function=one_of(Function))
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the function of the margin."""
        return losses.gpo(first - second, prob, self.beta, FUNCTIONS[self.function])
