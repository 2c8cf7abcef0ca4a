"""Exact samples of vote tables under Bradley-Terry, given how often every item won.

The number of wins of every item is sufficient for the Bradley-Terry scores. Given it the tables of the decided
verdicts are distributed as prod C(N_ij, W_ij), whatever the scores: a test on these samples is exact however sparse
the table is, and no sample needs a fit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.special import gammaln

from envs.votes.table import Indices, Matrix

_CELLS = 4_000_000  # entries of the tables held at once
_MOVES = 30  # shifts of every pair from the common ancestor to a sample


def sample_tables(wins: Matrix, draws: int, generator: np.random.Generator) -> Matrix:
    """Samples tables that are exchangeable with the given one under every Bradley-Terry model (Besag, Clifford 1989).

    Metropolis shifts verdicts around cycles of items, which leaves the wins of all as they are: triangles, and the
    fundamental cycles of random spanning trees, so that every table can be reached. One chain leads from the given
    table back to an ancestor; `draws` chains lead from there through the same cycles in the opposite order. The given
    table and the samples are then exchangeable even where the chains have not mixed.

    Args:
        wins: [n, n] whole numbers of decided verdicts that the row won against the column.
        draws: tables to sample.
        generator: the source of randomness.

    Returns:
        [draws, n, n] tables with the row sums and the numbers of verdicts of `wins`.
    """
    count = len(wins)
    verdicts = wins + wins.T
    low, high = np.nonzero(np.triu(verdicts))
    total = verdicts[low, high].astype(np.int64)
    place = np.zeros((count, count), dtype=np.int64)
    place[low, high] = place[high, low] = np.arange(len(low))
    share = (wins.sum(1)[low] + 1) / (verdicts.sum(1)[low] + 2)
    spread = total * share * (1 - share)
    cycles = list(_cycles(verdicts > 0, generator))
    turns = [_Turn(cycle, place, spread) for cycle in cycles]
    most = int(total.max(initial=0))
    log_factorial = gammaln(np.arange(1.0, most + 2))
    state = wins[low, high].astype(np.int64)[:, None]
    for turn in reversed(turns):
        turn.shift(state, total, log_factorial, generator)
    state = np.repeat(state, draws, axis=1)
    for turn in turns:
        turn.shift(state, total, log_factorial, generator)
    tables = np.zeros((draws, count, count))
    tables[:, low, high] = state.T
    tables[:, high, low] = (total[:, None] - state).T
    return tables


class _Turn:
    """One move: verdicts are shifted around disjoint cycles, each of L items, in every chain at once.

    Args:
        cycle: [C, L] the items of every cycle in order.
        place: [n, n] index of the pair.
        spread: [E] variance of the wins of every pair, which sets the size of the shifts.
    """

    def __init__(self, cycle: Indices, place: Indices, spread: NDArray[np.float64]) -> None:
        following = np.roll(cycle, -1, axis=1)
        self.pair = place[cycle, following]  # [C, L]
        self.sign = np.where(cycle < following, 1, -1)
        self.size = np.maximum(1, np.rint(1.5 / np.sqrt((1 / spread[self.pair]).sum(1)))).astype(np.int64)

    def shift(
        self, state: Indices, total: Indices, log_factorial: NDArray[np.float64], generator: np.random.Generator
    ) -> None:
        """Moves [E, B] wins of the first item of every pair, in place; `log_factorial` is that of 0, 1, ..."""
        shape = state.shape[1], len(self.pair)
        step = (generator.integers(1, self.size + 1, shape) * generator.choice((-1, 1), shape)).T  # [C, B]
        before = state[self.pair]  # [C, L, B]
        after = before + self.sign[..., None] * step[:, None]
        most = total[self.pair][..., None]
        inside = ((after >= 0) & (after <= most)).all(1, keepdims=True)
        kept = np.where(inside, after, before)
        weights = [log_factorial[wins] + log_factorial[most - wins] for wins in (before, kept)]
        gain = (weights[0] - weights[1]).sum(1)
        accepted = gain > np.log(generator.random((*shape, 1)))[..., 0].T  # outside nothing is kept
        state[self.pair] = np.where(accepted[:, None], kept, before)


def _cycles(compared: NDArray[np.bool_], generator: np.random.Generator) -> Iterator[Indices]:
    """Yields [C, L] disjoint cycles of the graph of compared items, until every pair was moved often enough."""
    pairs, moves = int(compared.sum()) // 2, 0
    components, _ = connected_components(csr_array(compared))
    while pairs > len(compared) - components and moves < _MOVES * pairs:
        triangles = _triangles(compared, generator)
        if len(triangles):
            yield triangles
        cycle = _fundamental_cycle(compared, generator)
        yield cycle
        moves += triangles.size + cycle.size


def _triangles(compared: NDArray[np.bool_], generator: np.random.Generator) -> Indices:
    """Returns [C, 3] random triangles that share no item."""
    left, triples = compared.copy(), []
    for item in generator.permutation(len(compared)):
        row = left[item]
        around = np.flatnonzero(row)
        if len(around) < 2:
            continue
        second = around[generator.integers(len(around))]
        both = np.flatnonzero(row & left[second])
        if len(both):
            third = both[generator.integers(len(both))]
            triples.append((item, second, third))
            left[:, (item, second, third)] = False
            left[(item, second, third), :] = False
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def _fundamental_cycle(compared: NDArray[np.bool_], generator: np.random.Generator) -> Indices:
    """Returns [1, L] the cycle that a random pair closes in a random spanning tree."""
    low, high = np.nonzero(np.triu(compared))
    weights = csr_array((1 + generator.random(len(low)), (low, high)), shape=compared.shape)
    tree = csr_array(minimum_spanning_tree(weights))
    outside = np.argwhere(np.triu(compared) & ~(tree.toarray() > 0))
    start, end = outside[generator.integers(len(outside))]
    _, previous = breadth_first_order(tree, start, directed=False)
    cycle = [end]
    while cycle[-1] != start:
        cycle.append(previous[cycle[-1]])
    return np.array(cycle, dtype=np.int64)[None]


def parts_of(draws: int, count: int) -> list[slice]:
    """Returns slices of `draws` tables [count, count] that fit into memory together."""
    size = max(1, _CELLS // count**2)
    return [slice(start, min(start + size, draws)) for start in range(0, draws, size)]
