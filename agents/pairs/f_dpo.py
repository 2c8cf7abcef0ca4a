"""DPO under another divergence than the reverse KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents import losses
from agents.losses.divergences import alpha_divergence, forward_kl, jensen_shannon
from agents.pairs.pair_agent import PairConfig
from preference_duel.checks import one_of, positive, require, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Divergence = Literal["forward_kl", "js", "alpha"]

SLOPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "forward_kl": lambda ratio, _: forward_kl(ratio),
    "js": lambda ratio, _: jensen_shannon(ratio),
    "alpha": alpha_divergence,
}
"""f'(pi/ref) of a log-ratio and alpha."""


@dataclass(frozen=True)
class FDPOConfig(PairConfig):
    """f-DPO (Wang et al. 2023, arXiv:2309.16240): DPO whose policy is held to the reference by another f-divergence."""

    beta: float = 0.1
    """Coefficient of the divergence from the reference, > 0 (the paper's 0.1)."""

    divergence: Divergence = "js"
    """forward_kl: KL(ref || pi), which leaves mass everywhere. js: Jensen-Shannon. alpha: between the two KLs."""

    alpha: float = 0.5
    """Order of divergence alpha, in (0, 1): towards 0 it is DPO, towards 1 forward_kl."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, divergence=one_of(Divergence), alpha=within("(0, 1)"))
        if self.divergence != "alpha" and self.alpha != FDPOConfig.alpha:
            raise ValueError(f"divergence={self.divergence!r} makes no use of alpha; leave it out")
        super().__post_init__()

    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns DPO's loss of the divergence's slopes in place of log-ratios."""
        slope = SLOPES[self.divergence]
        return losses.dpo(slope(first, self.alpha) - slope(second, self.alpha), prob, self.beta)
