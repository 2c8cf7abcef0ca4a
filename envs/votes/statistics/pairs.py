"""The compared pairs of items: what is summed over pairs takes one column a pair, not two of n x n cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.votes.table import Indices, Matrix


@dataclass(frozen=True)
class Pairs:
    """E pairs of n items, the graph of comparisons.

    Attributes:
        count: n.
        low: [E] the smaller index.
        high: [E] the larger one.
    """

    count: int
    low: Indices
    high: Indices

    @classmethod
    def of(cls, tables: Matrix) -> Pairs:
        """Returns the pairs that any of the tables [B, n, n] compares, in either of their two cells."""
        compared = (tables > 0).any(0)
        return cls(tables.shape[-1], *np.nonzero(np.triu(compared | compared.T, 1)))

    @property
    def forward(self) -> Indices:
        """The [E] cells [low, high] of a flattened table."""
        return self.low * self.count + self.high

    @property
    def backward(self) -> Indices:
        """The [E] cells [high, low] of a flattened table."""
        return self.high * self.count + self.low

    def gap(self, score: Matrix) -> Matrix:
        """Returns [B, E] how far the score of the smaller index is above the other one's."""
        return score[:, self.low] - score[:, self.high]

    def net(self, flow: Matrix) -> Matrix:
        """Returns [B, n] the sums of [B, E] over the pairs of each item, negative where its index is the larger."""
        return (self._one_way @ flow.T).T

    def both(self, weight: Matrix) -> Matrix:
        """Returns [B, n] the sums of [B, E] over the pairs of each item."""
        return (self._either_way @ weight.T).T

    def laplacian(self, weight: Matrix) -> NDArray[np.float64]:
        """Returns [B, n, n] the Laplacian of the graph with the weights [B, E]."""
        matrix = np.zeros((len(weight), self.count**2))
        matrix[:, self.forward] = matrix[:, self.backward] = -weight
        matrix[:, :: self.count + 1] = self.both(weight)
        return matrix.reshape(-1, self.count, self.count)

    @cached_property
    def _one_way(self) -> csr_array:
        return self._incidence(-1.0)

    @cached_property
    def _either_way(self) -> csr_array:
        return self._incidence(1.0)

    def _incidence(self, sign: float) -> csr_array:
        edges = np.arange(len(self.low))
        values = np.repeat((1.0, sign), len(edges))
        cells = np.concatenate([self.low, self.high]), np.tile(edges, 2)
        return csr_array((values, cells), shape=(self.count, len(edges)))
