"""Negative preference optimisation: unlearns what is disliked, the slower the less likely it already is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from agents import losses
from agents.singles.single_agent import SingleConfig
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NPOConfig(SingleConfig):
    """Negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868), with a likelihood of liked responses."""

    learns_from_dislikes: ClassVar[bool] = True

    beta: float = 0.1
    """How soon a disliked response is unlikely enough, > 0 (the paper's 0.1); towards 0 it is gradient ascent on the
    loss of its likelihood."""

    retain: float = 1.0
    """Weight of the log-likelihood of liked responses, >= 0 (the paper's NPO + RT); 0 is NPO alone, which makes no use
    of them."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, retain=at_least(0))
        super().__post_init__()

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns the loss of what is disliked and the likelihood of what is liked."""
        del point
        return losses.npo(ratio, label, self.beta, self.retain)
