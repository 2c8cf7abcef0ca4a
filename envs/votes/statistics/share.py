"""The intransitive share: how much of the preferences' variance no ranking explains, noise taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from envs.votes.statistics.bradley_terry import fit_bradley_terry, leverage
from envs.votes.statistics.conditional import parts_of
from envs.votes.statistics.pairs import Pairs
from envs.votes.table import Matrix

_DRAWS = 199
_HALVINGS = 10
_MOST = 0.995
_SHRINKINGS = 20


@dataclass(frozen=True)
class Share:
    """The intransitive share with a 95 % interval, all in [0, 1]; NaN if no pair has two verdicts.

    Attributes:
        value: the estimate, 0 where the scatter is less than the verdicts' own noise.
        low: the smallest share under which an estimate this large has a probability of 2.5 %.
        high: the largest share under which an estimate this small has a probability of 2.5 %.
    """

    value: float
    low: float
    high: float


def excess_and_variance(
    wins: Matrix, ties: Matrix, start: Matrix | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimates the two parts of the preferences' variance over the pairs with two verdicts or more.

    With w the share of wins (a tie is half a win), p the Bradley-Terry fit and h the leverage of a pair,
    excess = sum [(w - p)^2 - (1 - h) s^2 / N] / sum (1 - h) and variance = mean [(p - 1/2)^2 - h s^2 / N], s^2 the
    unbiased variance of the pair's verdicts. Where all pairs are compared equally often sum (1 - h) is pairs - (items -
    components). The variance is at least mean [h s^2 / N], the noise that it is known by: without any preference it
    would be 0, and the share be anything.

    Args:
        wins: [..., n, n] decided verdicts that the row won.
        ties: [..., n, n] ties, symmetric.
        start: [n] scores from which the fits start; None: 0.

    Returns:
        [...] excess, of mean 0 under a Bradley-Terry model, and [...] variance; NaN where no pair has two verdicts.
    """
    return excess_beside_fit(wins, ties, fit_bradley_terry(wins + ties / 2, start).score)


def excess_beside_fit(wins: Matrix, ties: Matrix, score: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns `excess_and_variance` of tables whose Bradley-Terry scores [..., n] are known."""
    shape, count = wins.shape[:-2], wins.shape[-1]
    wins, ties, score = wins.reshape(-1, count, count), ties.reshape(-1, count, count), score.reshape(-1, count)
    pairs = Pairs.of(wins + ties)
    won, lost, tied = (
        table.reshape(len(wins), -1)[:, cells]
        for table, cells in ((wins, pairs.forward), (wins, pairs.backward), (ties, pairs.forward))
    )
    verdicts = won + lost + tied
    chance = expit(pairs.gap(score))
    counted = verdicts > 1
    size = np.where(counted, verdicts, 2.0)
    share = (won + tied / 2) / size
    noise = ((won + tied / 4) / size - share**2) / (size - 1)
    free = np.where(counted, 1 - leverage(pairs, verdicts, chance), 0.0)
    scatter = np.where(counted, (share - chance) ** 2, 0.0) - free * noise
    followed = np.where(counted, (1 - free) * noise, 0.0).sum(1)
    strength = np.where(counted, (chance - 0.5) ** 2, 0.0).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = scatter.sum(1) / np.where(free.sum(1) > 1e-9, free.sum(1), np.nan)
        variance = np.maximum(strength - followed, followed) / counted.sum(1)
    return excess.reshape(shape), variance.reshape(shape)


def intransitive_share(wins: Matrix, ties: Matrix, seed: int, widening: float = 1.0) -> Share:
    """Estimates excess / (excess + variance), with the interval of all shares that are compatible with the table.

    A candidate share is tested on tables drawn from p + s (w - p), p being the Bradley-Terry fit, shrunk until its
    variance is that which is estimated: the residuals w - p leave the fit as it is, and s sets the share. The
    interval holds the candidates that two one-sided tests of 2.5 % do not refuse.

    Args:
        wins: [n, n] decided verdicts that the row won.
        ties: [n, n] ties, symmetric.
        seed: of the drawn tables.
        widening: factor on the drawn tables' deviations where verdicts come in clusters, see `audit`.

    Returns:
        The share.
    """
    excess, variance = (float(part) for part in excess_and_variance(wins, ties))
    if not np.isfinite(excess):
        return Share(np.nan, np.nan, np.nan)
    seen = excess / max(variance, 1e-12)
    simulate = simulation_at_share(wins, ties, seed)

    @cache
    def ratios(share: float) -> NDArray[np.float64]:
        excesses, variances = simulate(share, 1, _DRAWS)
        values = excesses / np.maximum(variances, 1e-12)
        return values.mean() + widening * (values - values.mean())

    low = _boundary(lambda share: float((ratios(share) >= seen).mean()) > 0.025)
    high = _boundary(lambda share: float((ratios(share) <= seen).mean()) <= 0.025)
    value = max(excess, 0.0) / (max(excess, 0.0) + variance) if excess > 0 or variance > 0 else 0.0
    return Share(value, min(low, value), max(high, value))


def simulation_at_share(wins: Matrix, ties: Matrix, seed: int) -> Callable[[float, int, int], tuple[Matrix, Matrix]]:
    """Returns a function of (share, times, draws): `excess_and_variance` [draws] of tables like this, of another share.

    The numbers of verdicts are those of the table, `times` over.
    """
    verdicts = wins + wins.T + ties
    pairs = Pairs.of(verdicts[None])
    low, high = pairs.low, pairs.high
    half = wins + ties / 2
    score = fit_bradley_terry(half).score
    count = verdicts[low, high]
    fitted = expit(pairs.gap(score[None]))[0]
    residual = half[low, high] / count - fitted  # sums to 0 over the verdicts of each item
    tied = ties[low, high] / count
    several = count > 1
    free = max(float((1 - leverage(pairs, count[None], fitted[None])[0])[several].sum()), 1e-9)
    energy = float((residual[several] ** 2).sum()) / free
    variance = float(excess_beside_fit(wins, ties, score)[1]) if several.any() else 0.0
    # Fitted scores scatter more than true ones: they shrink until the preferences' variance is that which is estimated.
    for _ in range(_SHRINKINGS):
        score = score * np.sqrt(variance / max(float(((fitted[several] - 0.5) ** 2).mean()), 1e-12))
        fitted = expit(pairs.gap(score[None]))[0]

    def simulate(share: float, times: int, draws: int) -> tuple[Matrix, Matrix]:
        scale = np.sqrt(share / (1 - share) * variance / energy) if energy > 0 else 0.0
        prob = np.clip(fitted + scale * residual, 0, 1)
        tie = np.minimum(tied, 2 * np.minimum(prob, 1 - prob))
        odds = np.stack([prob - tie / 2, tie, 1 - prob - tie / 2], -1).clip(0)
        odds /= odds.sum(-1, keepdims=True)
        generator = np.random.default_rng(seed)
        results = []
        for part in parts_of(draws, len(wins)):
            size = part.stop - part.start
            drawn = generator.multinomial((count * times).astype(np.int64), odds, (size, len(count)))
            tables = np.zeros((2, size, len(wins), len(wins)))
            tables[0, :, low, high] = drawn[..., 0].T
            tables[0, :, high, low] = drawn[..., 2].T
            tables[1, :, low, high] = tables[1, :, high, low] = drawn[..., 1].T
            results.append(excess_and_variance(*tables, start=score))
        excesses, variances = zip(*results, strict=True)
        return np.concatenate(excesses), np.concatenate(variances)

    return simulate


def _boundary(right_of_it: Callable[[float], bool]) -> float:
    """Returns the share at which a monotone condition begins to hold: 0 if it holds at 0."""
    if right_of_it(0.0):
        return 0.0
    low, high = 0.0, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if right_of_it(middle) else (middle, high)
    return (low + high) / 2
