"""Kimi k1.5's surrogate: mirror descent in which the mean score of a prompt's samples stands for the normaliser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from agents import losses
from agents.singles.single_agent import SingleConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.singles.single_agent import SingleAgent
    from preference_duel.types import Duel


@dataclass(frozen=True)
class KimiConfig(SingleConfig):
    """The policy optimisation of Kimi k1.5 (Kimi Team 2025, arXiv:2501.12599): relative entropy mirror descent."""

    around_sampler: ClassVar[bool] = True

    tau: float = 0.1
    """KL coefficient around the policy that samples, > 0, in units of the label."""

    refresh_every: int = 4
    """Updates between renewals of the policy that samples, to which log-ratios are taken, >= 1; with 1 every step is a
    policy gradient with the mean as its baseline."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive)
        super().__post_init__()

    def point(self, agent: SingleAgent, duel: Duel, label: Tensor, weight: Tensor, log_reference: Tensor) -> Tensor:
        """Returns the mean label of each prompt.

        Raises:
            ValueError: if there is one response to each, which is its own mean.
        """
        del agent, duel, log_reference
        if label.shape[1] == 1:
            raise ValueError("the mean of one response tells nothing: take lists or pairs, or thumbs of own samples")
        return (weight * label).sum(1)

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns half the squared distance of each advantage from tau times its log-ratio."""
        return losses.dro(ratio, label, point, self.tau)
