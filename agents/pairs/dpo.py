"""Direct preference optimisation: classifies the winner of a pair by the policy's own log-ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents import losses
from agents.learning.scores import Score
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import one_of, positive, require, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Loss = Literal["sigmoid", "robust", "hinge", "exo"]

LOSSES: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "sigmoid": losses.dpo,
    "robust": losses.robust_dpo,
    "hinge": lambda margin, prob, beta, _: losses.hinge(margin, prob, beta),
    "exo": losses.exo,
}
"""Losses of margin, P(first wins), beta and label smoothing."""


@dataclass(frozen=True)
class DPOConfig(PairConfig):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), online or iterative.

    It fits a Bradley-Terry reward: on cyclic preferences it has no reason to reach an equilibrium.
    """

    tau: float = 0.1
    """KL coefficient around the reference, > 0 (the paper's beta, 0.1)."""

    loss: Literal["sigmoid", "robust", "hinge", "exo"] = "sigmoid"
    """sigmoid: the paper's. robust: unbiased under labels flipped with chance `label_smoothing`. hinge: RSO's
    hinge-norm (arXiv:2309.06657). exo: the other way round, KL(policy || labels)."""

    length_normalised: bool = False
    """Divide log-ratios by the responses' tokens, as "sigmoid_norm" of released code does; the paper's are sums."""

    label_smoothing: float = 0.0
    """Chance that a label is wrong, in [0, 1/2): every label counts as 1 - e (sigmoid: cDPO); exo needs it above 0."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive, loss=one_of(Loss), label_smoothing=within("[0, 0.5)"))
        if self.loss == "exo" and self.label_smoothing == 0:
            raise ValueError("loss='exo' needs label_smoothing > 0: from a sure label it is infinitely far")
        if self.loss == "hinge" and self.label_smoothing > 0:
            raise ValueError("loss='hinge' makes no use of label_smoothing; leave it out")
        super().__post_init__()

    def score(self) -> Score:
        """Returns log-ratios to the reference, or their means over tokens."""
        return Score(per_token=self.length_normalised)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns the loss of the margin between log-ratios."""
        return LOSSES[self.loss](first - second, prob, self.tau, self.label_smoothing)
