"""Token-level direct preference optimisation: DPO whose margin counts the drift from the reference at each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.scores import Score
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TDPOConfig(PairConfig):
    """Token-level direct preference optimisation (Zeng et al. 2024, arXiv:2404.11999).

    The defaults are TDPO2; TDPO1 is alpha 1 with no-stop-winner.
    """

    beta: float = 0.1
    """KL coefficient around the reference, > 0 (the paper's 0.1)."""

    alpha: float = 0.5
    """Weight of the difference between the loser's and the winner's divergence, >= 0 (TDPO2's 0.5); 0 is DPO."""

    stop_winner: bool = True
    """Whether the winner's divergence gets no gradient, as in TDPO2; in TDPO1 it does."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, alpha=at_least(0))
        super().__post_init__()

    def score(self) -> Score:
        """Returns log-ratios to the reference, and beside them the sums of KL(ref || pi) before each token."""
        return Score(term=_divergence)

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns DPO's loss with the difference of divergences in its margin."""
        return losses.tdpo(first, second, prob, self.beta, self.alpha, self.stop_winner)


def _divergence(logits: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
    del tokens
    assert reference is not None
    return losses.token_kl(logits, reference)
