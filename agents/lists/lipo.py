"""Listwise preference optimisation: pairs of a list count by what swapping them would cost its ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.lists.list_agent import ListConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch


@dataclass(frozen=True)
class LiPOConfig(ListConfig):
    """LiPO-lambda (Liu et al. 2024, arXiv:2402.01878); a response's label is its win rate in the list.

    A better label is a certain win, whatever the difference: no finite policy is best, and of a whole distribution it
    goes to the response that wins most.
    """

    beta: float = 0.1
    """KL coefficient around the start, > 0 (DPO's 0.1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive)
        super().__post_init__()

    def list_loss(self, score: Tensor, counted: Tensor, part: Batch) -> Tensor:
        """Returns the LambdaLoss of the log-ratios."""
        return losses.lipo_lambda(self.beta * score, part["label"], counted)
