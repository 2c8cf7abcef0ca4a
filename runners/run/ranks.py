"""Runs in several processes: each asks the oracle its share of the questions, and only the first one writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oracles import Oracle
from preference_duel import distributed
from preference_duel.protocols import DescribedOracle, PayoffOracle, Policy, forget, leaves_unread
from runners.run.checkpoint import Checkpoint, Wait, steps, take_part
from runners.run.record import read_lines


class NullRecord:
    """The record of ranks above 0: knows where the run is written and writes nothing.

    Attributes:
        directory: of the run.
        saved: the step of the last checkpoint; None where there is none.

    Args:
        directory: of the run, which the first process has made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.saved = max(steps(directory), default=None)
        self._wait: Wait | None = None

    def log(self, *_: Any) -> None:
        """Does nothing."""

    duels = distributions = log

    def save(self, state: Checkpoint, policy: Policy) -> None:
        """Takes part in a checkpoint of a policy whose parameters are sharded over processes."""
        self.settle()
        self._wait = take_part(self.directory, state, policy)
        self.saved = state.step

    def settle(self) -> None:
        """Waits until the last checkpoint is on the disk, as the first process does."""
        if self._wait is not None:
            wait, self._wait = self._wait, None
            started, self.saved = self.saved, max(steps(self.directory), default=None)
            wait()
            self.saved = started

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        return read_lines(self.directory / "metrics.jsonl")

    def close(self) -> None:
        """Waits until the last checkpoint is on the disk."""
        self.settle()


class SplitOracle:
    """Asks an oracle, of which every process has one, about a share of the pairs, and gathers the answers.

    Args:
        oracle: this process's own.
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.antisymmetric, self.leaves_unread = oracle.antisymmetric, leaves_unread(oracle)
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
        """Drops what this process's own oracle remembers."""
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
