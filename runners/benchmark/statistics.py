"""Statistics of few seeds: robust means with intervals, probability of improvement, and performance profiles.

After Agarwal et al. 2021 (arXiv:2108.13264). Scores are [R, T]: R seeds of each of T games, higher is better; a gap, of
which less is better, is passed with its sign changed. A seed's scores in two games have nothing in common, so that
seeds are drawn again within each game: the bootstrap is stratified.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
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

    def __str__(self) -> str:
        """Returns it for people."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interquartile_mean(scores: Scores) -> Scores:
    """Returns [...] the mean of the middle half of all scores [..., R, T], a quarter of them left out at either end.

    A quarter that is no whole number counts its last score in part, so that one more seed never makes the estimate
    jump; scipy's `trim_mean` rounds it down.

    Raises:
        ValueError: if there is no score.
    """
    scores = _checked(scores)
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    edges = np.arange(ordered.shape[-1] + 1) / ordered.shape[-1]
    weight = np.diff(np.clip(edges, 0.25, 0.75))
    return ordered @ weight / weight.sum()


def bootstrap(
    scores: Scores,
    statistic: Callable[[Scores], Scores] = interquartile_mean,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns a statistic with its stratified percentile interval.

    Args:
        scores: [R, T].
        statistic: of scores [..., R, T], returns [...].
        level: share of the resamples that the interval holds, in (0, 1).
        resamples: how many.
        seed: names them.

    Raises:
        ValueError: if there is no score, or `level` is out of range.
    """
    scores = _checked(scores)
    drawn = statistic(_resampled(scores, resamples, np.random.default_rng(seed)))
    return Interval(float(statistic(scores)), *_ends(drawn, level))


def probability_of_improvement(first: Scores, second: Scores) -> float:
    """Returns the chance that a seed of the first beats one of the second in the same game, ties half; the games' mean.

    Args:
        first: [R, T].
        second: [S, T].

    Raises:
        ValueError: if they are of other games.
    """
    return float(_ahead(first, second).mean())


def improvement(
    first: Scores, second: Scores, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Returns the probability of improvement with its stratified percentile interval, seeds of both drawn again.

    Raises:
        ValueError: if they are of other games, or `level` is out of range.
    """
    ahead = _ahead(first, second)
    seeds, others, games = ahead.shape
    ours, theirs = _weights(seeds, others, games, resamples, seed)
    drawn = np.einsum("ert,rst,est->e", ours, ahead, theirs, optimize=True) / games
    return Interval(float(ahead.mean()), *_ends(drawn, level))


def performance_profile(scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns [H] the share of seeds and games whose score is above each of [H] thresholds."""
    return (_checked(scores)[..., None] > thresholds).mean((0, 1))


def _ahead(first: Scores, second: Scores) -> Scores:
    """Returns [R, S, T] 1 where the first is ahead, 1/2 where they are level."""
    first, second = _checked(first), _checked(second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the two must have the same games, got {first.shape[1]} and {second.shape[1]}")
    return (np.sign(first[:, None] - second[None]) + 1) / 2


def _resampled(scores: Scores, resamples: int, rng: np.random.Generator) -> Scores:
    """Returns [E, R, T] scores, drawn with replacement in each game by itself."""
    seeds, games = scores.shape
    return scores[rng.integers(0, seeds, (resamples, seeds, games)), np.arange(games)]


@lru_cache(maxsize=4)  # a report compares hundreds of pairs of one shape
def _weights(first: int, second: int, games: int, resamples: int, seed: int) -> tuple[Scores, Scores]:
    """Returns [E, R, T] and [E, S, T] how often each seed of the first and the second is drawn, as a share."""
    rng = np.random.default_rng(seed)
    shape = resamples, games
    drawn = [rng.multinomial(count, np.full(count, 1 / count), shape) / count for count in (first, second)]
    ours, theirs = (shares.transpose(0, 2, 1) for shares in drawn)
    return ours, theirs


def _ends(drawn: Scores, level: float) -> tuple[float, float]:
    """Returns the ends of the interval that holds a share of what was drawn."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level:g}")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(scores: Scores) -> Scores:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim < 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite numbers [seeds, games], at least one, got shape {scores.shape}")
    return scores
