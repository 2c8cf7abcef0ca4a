"""The bootstrap of a table of votes: single verdicts, or whole annotators or prompts where the file names them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from envs.votes.statistics import vote_rankings
from envs.votes.statistics.bradley_terry import fit_bradley_terry
from envs.votes.statistics.conditional import parts_of
from envs.votes.statistics.share import excess_and_variance, excess_beside_fit
from envs.votes.table import Indices, Matrix, VoteTable

LOTTERY_DRAWS = 100


class Bootstrap:
    """Rankings of tables resampled from the verdicts: pair by pair, or by annotators (prompts) where they are named.

    Attributes:
        score: [draws, n] Bradley-Terry scores.
        copeland: [draws, n].
        top: [draws, n] members of the top cycle.
        lottery: [LOTTERY_DRAWS or fewer, n].
        ratio: [draws] excess / variance of the intransitive share.
    """

    def __init__(
        self, table: VoteTable, wins: Matrix, ties: Matrix, draws: int, generator: np.random.Generator
    ) -> None:
        count = len(wins)
        self.score, self.copeland = np.empty((draws, count)), np.empty((draws, count))
        self.top, self.ratio = np.empty((draws, count), dtype=bool), np.empty(draws)
        start = fit_bradley_terry(wins + ties / 2).score
        lotteries = []
        for part in parts_of(draws, count):
            size = part.stop - part.start
            won, tied = resample(table, wins, ties, size, generator)
            self.score[part] = fit_bradley_terry(won + tied / 2, start).score
            self.copeland[part] = vote_rankings.copeland(won)
            self.top[part] = vote_rankings.top_cycle(won)
            excess, variance = excess_beside_fit(won, tied, self.score[part])
            self.ratio[part] = excess / np.maximum(variance, 1e-12)
            for k in range(min(size, LOTTERY_DRAWS - len(lotteries))):
                lotteries.append(vote_rankings.maximal_lottery(vote_rankings.preferences(won[k], tied[k])))
        self.lottery = np.array(lotteries)


def interval(values: Matrix) -> tuple[Matrix, Matrix]:
    """Returns the ends [n] of the 95 % percentile interval of [draws, n]."""
    low, high = np.quantile(values, (0.025, 0.975), axis=0)
    return low, high


def resample(
    table: VoteTable, wins: Matrix, ties: Matrix, draws: int, generator: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Returns [draws, n, n] wins and ties of tables resampled from the verdicts, clusters whole if named."""
    clusters = _clusters(table)
    if clusters is None:
        return _resample_pairs(wins, ties, draws, generator)
    count = len(wins)
    cell = table.first * count + table.second
    won, tied = table.outcome, table.outcome == 0.5
    shape = (int(clusters.max()) + 1, count * count)
    first = csr_array((np.where(tied, 0, won), (clusters, cell)), shape=shape)
    second = csr_array((np.where(tied, 0, 1 - won), (clusters, cell)), shape=shape)
    draw = csr_array((tied.astype(float), (clusters, cell)), shape=shape)
    times = generator.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), draws).astype(np.float64)
    square = (draws, count, count)
    lost = (second.T @ times.T).T.reshape(square)
    draw_tables = (draw.T @ times.T).T.reshape(square)
    return (first.T @ times.T).T.reshape(square) + lost.swapaxes(1, 2), draw_tables + draw_tables.swapaxes(1, 2)


def _resample_pairs(wins: Matrix, ties: Matrix, draws: int, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    low, high = np.nonzero(np.triu(wins + wins.T + ties))
    counts = np.stack([wins[low, high], ties[low, high], wins[high, low]], -1)
    total = counts.sum(-1)
    drawn = generator.multinomial(np.rint(total).astype(np.int64), counts / total[:, None], (draws, len(low)))
    tables = np.zeros((2, draws, *wins.shape))
    tables[0, :, low, high], tables[0, :, high, low] = drawn[..., 0].T, drawn[..., 2].T
    tables[1, :, low, high] = tables[1, :, high, low] = drawn[..., 1].T
    return tables[0], tables[1]


def _clusters(table: VoteTable) -> Indices | None:
    for column in (table.annotators, table.prompts):
        if column is not None and len(np.unique(column)) > 1:
            return np.unique(column, return_inverse=True)[1]
    return None


def spread_of_clusters(table: VoteTable, wins: Matrix, ties: Matrix, bootstrap: Bootstrap) -> float:
    """Returns how much wider the share scatters if clusters are resampled instead of single verdicts; at least 1."""
    if _clusters(table) is None:
        return 1.0
    draws = len(bootstrap.ratio)
    ratios = np.empty(draws)
    for part in parts_of(draws, len(wins)):
        excess, variance = excess_and_variance(
            *_resample_pairs(wins, ties, part.stop - part.start, np.random.default_rng(part.start))
        )
        ratios[part] = excess / np.maximum(variance, 1e-12)
    if np.isnan(ratios).all() or np.isnan(bootstrap.ratio).all():
        return 1.0  # no pair was judged twice
    alone, together = float(np.nanstd(ratios)), float(np.nanstd(bootstrap.ratio))
    return max(1.0, together / alone) if alone > 0 else 1.0
