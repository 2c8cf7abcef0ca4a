"""Meta-solvers: mixtures of the members of a population, from the game that is played among them.

A table is [M, M] with table[i, j] = P(member i beats member j), table + table' = 1; a mixture is [M] and sums to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_STEPS, _STEP_SIZE = 4_000, 0.1


def uniform(table: Tensor) -> Tensor:
    """Returns equal shares; best responses to them are fictitious play (Brown 1951)."""
    return torch.full((len(table),), 1 / len(table), dtype=torch.float64)


def nash(table: Tensor) -> Tensor:
    """Returns an equilibrium; best responses to it are the double oracle (McMahan et al. 2003)."""
    from envs.games import von_neumann_winner

    return von_neumann_winner(table).policy


def replicator(table: Tensor, exploration: float) -> Tensor:
    """Returns the time average of projected replicator dynamics (Lanctot et al. 2017, section 3.1).

    Shares grow by their advantage over the mixture, and are projected onto those of at least exploration / M.

    Args:
        table: [M, M].
        exploration: gamma in [0, 1], the total of all members' least shares.
    """
    advantage = table.numpy() - 0.5
    shares = np.full(len(table), 1 / len(table))
    total = np.zeros_like(shares)
    for _ in range(_STEPS):
        # The mixture's advantage over itself is 0, which leaves no second term.
        shares = _project(shares * (1 + _STEP_SIZE * (advantage @ shares)), exploration / len(table))
        total += shares
    return torch.from_numpy(total / total.sum())


def _project(values: NDArray, least: float) -> NDArray:
    """Returns the nearest shares in Euclidean distance, each at least `least` (Held et al. 1974)."""
    budget = 1 - least * len(values)
    descending = np.sort(values - least)[::-1]
    excess = (descending.cumsum() - budget) / np.arange(1, len(values) + 1)
    positive = np.flatnonzero(descending > excess)
    return np.full_like(values, least) if not len(positive) else least + (values - least - excess[positive[-1]]).clip(0)
