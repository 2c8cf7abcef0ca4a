"""Rankings of the items of a table of votes: Copeland, top cycle, maximal lottery and, as a contrast, Elo."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from envs.games import maximum_entropy_winner
from envs.votes.statistics.bradley_terry import fit_bradley_terry
from envs.votes.table import Matrix, VoteTable

_ELO_STEPS = 1_000_000


def preferences(wins: Matrix, ties: Matrix) -> Matrix:
    """Returns [n, n] the share of its verdicts that the row won, a tie half a win; 1/2 on the diagonal.

    A pair without a verdict takes the Bradley-Terry model's prediction, 1/2 where nothing connects the two items.
    """
    half = wins + ties / 2
    verdicts = half + half.T
    predicted = fit_bradley_terry(half).chance()
    return np.where(verdicts > 0, half / np.maximum(verdicts, 1), predicted)


def copeland(wins: Matrix) -> Matrix:
    """Returns [..., n] how many items each beats in most of their verdicts; a draw and a pair without any are 1/2.

    Args:
        wins: [..., n, n] verdicts that the row won; only differences between [i, j] and [j, i] matter, so that ties
            may be left out.
    """
    margin = wins - np.swapaxes(wins, -1, -2)
    return (np.sign(margin).sum(-1) + wins.shape[-1] - 1) / 2


def top_cycle(wins: Matrix) -> NDArray[np.bool_]:
    """Returns [..., n] the members of the top cycle (Smith set): the fewest items that each beat all others.

    A single member is the Condorcet winner. In the order of Copeland's scores it is the shortest beginning, of k
    items, whose scores sum to k (k - 1) / 2 + k (n - k), the most that k items can have.
    """
    score = copeland(wins)
    count = score.shape[-1]
    order = np.argsort(-score, axis=-1, kind="stable")
    size = np.arange(1, count + 1)
    most = size * (size - 1) / 2 + size * (count - size)
    reached = np.take_along_axis(score, order, -1).cumsum(-1) >= most - 1e-9
    smallest = reached.argmax(-1)[..., None]  # the place of the last member
    members = np.zeros(score.shape, dtype=bool)
    np.put_along_axis(members, order, np.arange(count) <= smallest, -1)
    return members


def maximal_lottery(preference: Matrix) -> Matrix:
    """Returns [n] the von Neumann winner of most entropy (Fishburn 1984): no mixture is preferred to it.

    Raises:
        NotConvergedError: if the solver stopped short of an exploitability of 1e-9.
    """
    return maximum_entropy_winner(torch.from_numpy(preference)).policy.numpy()


def elo(table: VoteTable, generator: np.random.Generator, orders: int = 20, step: float = 4.0) -> Matrix:
    """Plays the verdicts through Elo's rule, in the file's order and in random orders.

    Args:
        table: the verdicts.
        generator: draws the orders.
        orders: rows returned at most; fewer if the table is long.
        step: K, points that one verdict can move.

    Returns:
        [1 + orders, n] points, 1,000 at the start; the first row is the file's own order. That the rows differ is
        the contrast: the other rankings do not depend on the order.
    """
    verdicts = len(table)
    orders = max(1, min(orders, _ELO_STEPS // max(verdicts, 1)))
    plays = np.stack([np.arange(verdicts), *(generator.permutation(verdicts) for _ in range(orders))])
    first, second, outcome = table.first[plays], table.second[plays], table.outcome[plays]
    points = np.full((len(plays), len(table.items)), 1000.0)
    rows = np.arange(len(plays))
    for k in range(verdicts):
        i, j = first[:, k], second[:, k]
        expected = 1 / (1 + 10 ** ((points[rows, j] - points[rows, i]) / 400))
        move = step * (outcome[:, k] - expected)
        points[rows, i] += move
        points[rows, j] -= move
    return points
