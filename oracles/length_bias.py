"""Length bias: a quality that ranks, and a semiorder that prefers the longer of two similar responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from oracles.features import FeatureOracle, feature_oracle
from preference_duel.checks import at_least, positive_finite, require, share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LengthBiasConfig:
    """A judge of quality that prefers the longer response if the difference is visible (a semiorder, Luce 1956).

    logit P(a beats b) = s [(1 - lam g) (q_a - q_b) + 1.5 lam g (l_a - l_b)], g = sigmoid((|l_a - l_b| - delta) / w):
    of neighbours in length the better wins, of distant ones the longer. Not monotone in lam.
    """

    lam: float = 0.5
    """Weight of length against quality if the lengths differ visibly, in [0, 1]."""
    delta: float = 1.0
    """The difference in length that is noticed, in standard deviations on finite tasks, `unit` words on text, >= 0."""
    width: float = 0.15
    """w, how sharply it is noticed, in the same unit, > 0."""
    scale: float = 2.0
    """s, nats per standard deviation of quality, > 0."""
    unit: float = 4.0
    """On text: words that count as length 1, > 0. (On finite tasks lengths are drawn, -.8 correlated with quality.)"""
    seed: int = 0
    """Names qualities, and lengths on finite tasks."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> FeatureOracle:
        """Returns the oracle.

        Raises:
            ValueError: if a field is out of range, or a finite task lists too few responses.
        """
        del prompts, device
        require(self, lam=share, delta=at_least(0))
        require(self, width=positive_finite, scale=positive_finite, unit=positive_finite)
        compare = partial(_semiorder, self)
        words = partial(_quality_and_words, self.unit)
        return feature_oracle("length_bias", self.seed, 2, _quality_and_length, words, compare, responses)


def _semiorder(config: LengthBiasConfig, left: Tensor, right: Tensor) -> Tensor:
    better = left[..., :, None, 0] - right[..., None, :, 0]
    longer = left[..., :, None, 1] - right[..., None, :, 1]
    noticed = config.lam * torch.sigmoid((longer.abs() - config.delta) / config.width)
    return torch.sigmoid(config.scale * ((1 - noticed) * better + 1.5 * noticed * longer))


def _quality_and_length(drawn: Tensor) -> Tensor:
    noise, length = drawn.unbind(-1)
    return torch.stack([0.6 * noise - 0.8 * length, length], dim=-1)


def _quality_and_words(unit: float, drawn: Tensor, counts: Tensor) -> Tensor:
    return torch.cat([drawn[:, :1], counts / unit], dim=1)
