"""What can be said of few seeds: robust means with intervals, who improves on whom, and how scores are spread.

After Agarwal et al. 2021 (arXiv:2108.13264). Scores are [R, T]: R seeds of each of T games, higher is better; a gap, of
which less is better, is passed with its sign changed. A seed's scores in two games have nothing in common, so that
seeds are drawn again within each game: the bootstrap is stratified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """Returns the mean of the middle half of all scores, a quarter of them left out at either end.

    A quarter that is no whole number counts its last score in part, so that one more seed never makes the estimate
    jump; scipy's `trim_mean` rounds it down.

    Raises:
        ValueError: if there is no score.
    """
    ordered = np.sort(_checked(scores), axis=None)
    edges = np.arange(len(ordered) + 1) / len(ordered)
    weight = np.diff(np.clip(edges, 0.25, 0.75))
    return float(ordered @ weight / weight.sum())


def bootstrap(
    scores: Scores,
    statistic: Callable[[Scores], float] = interquartile_mean,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns a statistic with its stratified percentile interval.

    Args:
        scores: [R, T].
        statistic: of scores [R, T].
        level: share of the resamples that the interval holds, in (0, 1).
        resamples: how many.
        seed: names them.

    Raises:
        ValueError: if there is no score, or `level` is out of range.
    """
    scores = _checked(scores)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level:g}")
    drawn = [statistic(one) for one in _resampled(scores, resamples, np.random.default_rng(seed))]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(scores), float(low), float(high))


def probability_of_improvement(first: Scores, second: Scores) -> float:
    """Returns the chance that a seed of the first beats one of the second in the same game, ties half; the games' mean.

    Args:
        first: [R, T].
        second: [S, T].

    Raises:
        ValueError: if they are of other games.
    """
    first, second = _checked(first), _checked(second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the two must have the same games, got {first.shape[1]} and {second.shape[1]}")
    ahead = np.sign(first[:, None] - second[None])  # [R, S, T]
    return float((ahead.mean() + 1) / 2)


def improvement(
    first: Scores, second: Scores, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Returns the probability of improvement with its stratified percentile interval, seeds of both drawn again.

    Raises:
        ValueError: if they are of other games, or `level` is out of range.
    """
    value = probability_of_improvement(first, second)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level:g}")
    rng = np.random.default_rng(seed)
    pairs = zip(_resampled(_checked(first), resamples, rng), _resampled(_checked(second), resamples, rng), strict=True)
    low, high = np.quantile([probability_of_improvement(*pair) for pair in pairs], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def performance_profile(scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns [H] the share of seeds and games whose score is above each of [H] thresholds."""
    return (_checked(scores)[..., None] > thresholds).mean((0, 1))


def _resampled(scores: Scores, resamples: int, rng: np.random.Generator) -> list[Scores]:
    """Returns [R, T] scores, drawn with replacement in each game by itself."""
    seeds, games = scores.shape
    return [scores[rng.integers(0, seeds, (seeds, games)), np.arange(games)] for _ in range(resamples)]


def _checked(scores: Scores) -> Scores:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite numbers [seeds, games], at least one, got shape {scores.shape}")
    return scores
