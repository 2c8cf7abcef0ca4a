"""An oracle in several processes: each asks its share of the questions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oracles import Oracle
from preference_duel import distributed
from preference_duel.protocols import DescribedOracle, PayoffOracle, forget


class SplitOracle:
    """Asks an oracle, of which every process has one, about a share of the pairs, and gathers the answers.

    Args:
        oracle: this process' own.
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.antisymmetric = oracle.antisymmetric
        if isinstance(oracle, PayoffOracle):
            self.payoff = self._payoff
        if isinstance(oracle, DescribedOracle):
            self.description = oracle.description

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] float64."""
        own = distributed.share(len(prompts))
        columns = ([column[i] for i in own] for column in (prompts, first, second))
        mine = self._oracle.prob(*columns).tolist() if own else []
        return torch.tensor(distributed.exchange(mine, len(prompts)), dtype=torch.float64)

    def forget(self) -> None:
        """Drops what this process' own oracle remembers."""
        forget(self._oracle)

    def _payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L] float64; processes share the prompts."""
        own = distributed.share(len(prompts))
        assert isinstance(self._oracle, PayoffOracle)
        mine = []
        if own:
            seats = ([seat[i] for i in own] for seat in (left, right))
            mine = self._oracle.payoff([prompts[i] for i in own], *seats).tolist()
        return torch.tensor(distributed.exchange(mine, len(prompts)), dtype=torch.float64)
