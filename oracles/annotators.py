"""A population of annotators: a mixture of Bradley-Terry models whose majority vote can be cyclic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from oracles.features import FeatureOracle, feature_oracle, unit_gaps
from preference_duel.checks import at_least, positive_finite, require, share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AnnotatorsConfig:
    """A population of annotators: each is a Bradley-Terry model, the majority vote is not.

    P(a beats b) = mean over kinds k of sigmoid(s (r^k_a - r^k_b)), r^k = sqrt(1 - lam) (shared reward) + sqrt(lam)
    (ranking of kind k, a shift of one circle).
    """

    lam: float = 0.5
    """Weight of the rankings that the kinds do not share, in [0, 1]."""
    kinds: int = 3
    """Kinds of annotators, equally many of each, >= 2; three shifts of one circle are Condorcet's cycle."""
    scale: float = 6.0
    """Root mean square of one annotator's logits over pairs, in nats, > 0."""
    seed: int = 0
    """Random seed of the rewards and the circle."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> FeatureOracle:
        """Returns the oracle.

        Raises:
            ValueError: if a field is out of range, or a finite task lists too few responses.
        """
        del prompts, device
        one_kind = "one kind of annotator is oracle 'bt'"
        require(self, lam=share, scale=positive_finite, kinds=at_least(2, one_kind))
        listed, words = (partial(finish, self.lam, self.kinds) for finish in (_tastes_listed, _tastes_words))
        return feature_oracle("annotators", self.seed, 2, listed, words, partial(_mean_vote, self.scale), responses)


def _mean_vote(scale: float, left: Tensor, right: Tensor) -> Tensor:
    kinds = left.shape[-1]
    votes = torch.zeros(*left.shape[:-1], right.shape[-2], dtype=left.dtype)
    for k in range(kinds):
        gap = left[..., :, None, k] - right[..., None, :, k]
        votes += torch.sigmoid(gap.mul_(scale))
    return votes / kinds


def _tastes_listed(lam: float, kinds: int, drawn: Tensor) -> Tensor:
    count = len(drawn)
    rank = drawn[:, 1].argsort().argsort()
    shift = torch.arange(kinds) * count // kinds
    private = -((rank[:, None] + shift) % count).double()
    return math.sqrt(1 - lam) * unit_gaps(drawn[:, :1]) + math.sqrt(lam) * unit_gaps(private)


def _tastes_words(lam: float, kinds: int, drawn: Tensor, counts: Tensor) -> Tensor:
    del counts
    circle = torch.special.ndtr(drawn[:, 1:])  # uniform on [0, 1]
    private = -((circle + torch.arange(kinds) / kinds) % 1 - 0.5) * math.sqrt(12)
    return (math.sqrt(1 - lam) * drawn[:, :1] + math.sqrt(lam) * private) / math.sqrt(2)
