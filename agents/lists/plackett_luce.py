"""DPO on rankings of K responses, drawn one after the other: Plackett-Luce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.rewards import mean_log_odds, win_rate
from agents.lists.list_agent import ListConfig
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from preference_duel.types import Duel


@dataclass(frozen=True)
class PlackettLuceConfig(ListConfig):
    """DPO on rankings (Rafailov et al. 2023, arXiv:2305.18290, appendix A.3).

    Outcomes rank a list by its wins. Probabilities say how often it would be ranked in every way: the loss is the mean
    over the rankings that Plackett-Luce draws by the responses' log odds, and its minimum is DPO's.
    """

    beta: float = 0.1
    """KL coefficient around the start, > 0 (DPO's 0.1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive)
        super().__post_init__()

    def labels(self, duel: Duel) -> Mapping[str, Tensor]:
        """Returns the win rates, the mean log odds, and whether all that is known of a list are certain wins."""
        certain = ((duel.prob == 0) | (duel.prob == 1) | ~duel.asked).all(2).all(1) & (not duel.exact)
        return {"label": win_rate(duel), "reward": mean_log_odds(duel), "certain": certain}

    def list_loss(self, score: Tensor, counted: Tensor, part: Batch) -> Tensor:
        """Returns the loss of a ranking, or its mean over rankings."""
        score, certain = self.beta * score, part["certain"] > 0
        ranked = losses.plackett_luce(score, part["label"], counted)
        if certain.all():
            return ranked
        return torch.where(certain, ranked, losses.expected_plackett_luce(score, part["reward"], counted))
