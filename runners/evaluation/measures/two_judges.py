"""Agreement of two judges on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.votes.statistics.bootstrap import interval
from envs.votes.statistics.judge_agreement import clustered_interval
from envs.votes.table import Indices, Matrix

DRAWS = 999


@dataclass(frozen=True)
class TwoJudges:
    """How far two judges agree; None if it is not defined.

    Attributes:
        pairs: that both read.
        agreement: share on which both name the same side, or both neither.
        agreement_low: lower end of the 95 % interval: Wilson's, for as many independent pairs as have the variance of
            these, which cluster in prompts; None for a single prompt.
        agreement_high: upper end.
        kappa: Cohen's (1960), the part of the agreement beyond chance, 1 if complete; None if each judge always names
            one and the same side, so that chance agrees as well.
        kappa_low: lower end of the percentile interval over resampled prompts.
        kappa_high: upper end.
    """

    pairs: int
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    kappa: float | None = None
    kappa_low: float | None = None
    kappa_high: float | None = None


def two_judges(
    first: Sequence[Matrix], second: Sequence[Matrix], orders: int = 1, draws: int = DRAWS, seed: int = 0
) -> TwoJudges:
    """Compares the sides that two judges name: the left one, the right one, or neither at P = 1/2.

    Args:
        first: of each prompt the first judge's P(left beats right) of its pairs, NaN if unread.
        second: the second judge's, of the same pairs.
        orders: in how many orders each pair stands there.
        draws: resamples of the prompts.
        seed: of the resamples.

    Raises:
        ValueError: if the judges' pairs differ in number.
    """
    tables = [_table(a, b) for a, b in zip(first, second, strict=True)]
    counts = np.array([table for table in tables if table.any()])  # [B, 3, 3]
    if not len(counts):
        return TwoJudges(0)
    total = counts.sum(0)
    agreed, kappa = np.trace(counts, axis1=1, axis2=2), float(_kappa(total))
    share = float(agreed.sum() / total.sum())
    known = None if np.isnan(kappa) else kappa
    if len(counts) < 2:
        return TwoJudges(int(total.sum()) // orders, share, kappa=known)
    ends = clustered_interval(agreed / orders, counts.sum((1, 2)) / orders)
    times = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
    resampled = _kappa(np.tensordot(times, counts, 1))
    low, high = (None, None) if known is None else (float(end) for end in interval(resampled[~np.isnan(resampled)]))
    return TwoJudges(int(total.sum()) // orders, share, *ends, known, low, high)


def _table(first: Matrix, second: Matrix) -> Indices:
    """Returns [3, 3] the number of pairs by the sides that both judges name: right, neither, left."""
    if first.shape != second.shape:
        raise ValueError(f"both judges must have the same pairs, got {first.shape} and {second.shape}")
    read = ~(np.isnan(first) | np.isnan(second))
    sides = [np.sign(prob[read] - 0.5).astype(np.int64) + 1 for prob in (first, second)]
    return np.bincount(3 * sides[0] + sides[1], minlength=9).reshape(3, 3)


def _kappa(counts: Indices) -> Matrix:
    """Returns [...] Cohen's kappa of tables [..., 3, 3], NaN if chance agrees always."""
    share = counts / counts.sum((-1, -2), keepdims=True)
    agreed = np.trace(share, axis1=-2, axis2=-1)
    chance = (share.sum(-1) * share.sum(-2)).sum(-1)
    return np.divide(agreed - chance, 1 - chance, out=np.full_like(chance, np.nan), where=chance < 1)
