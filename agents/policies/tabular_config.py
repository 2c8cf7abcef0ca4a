"""Settings of the table of a finite task; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from envs.tasks.task import Task
from preference_duel.checks import require, within
from preference_duel.keyed_random import Key, Stream, hash_seed

if TYPE_CHECKING:
    from agents.policies.tabular import TabularPolicy


@dataclass(frozen=True)
class TabularConfig:
    """A table of logits, one row for each prompt of a finite task."""

    exact: bool = False
    """List every response with its probability as weight, instead of samples."""

    spread: float = 0.0
    """Standard deviation of its initial logits, normal with random seed `start`, nats, >= 0; 0: uniform, which is
    already the equilibrium of a symmetric cycle."""

    start: int = 0
    """Random seed of the initial logits."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range or would be ignored."""
        require(self, spread=within("[0, inf)"))
        if self.start and not self.spread:
            raise ValueError(f"start is the seed of logits with spread > 0, and spread is 0; got start={self.start}")

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> TabularPolicy:
        """Builds the policy."""
        del device, seed  # a table is small, and its start does not depend on the run's seed
        import torch

        from agents.policies.tabular import TabularPolicy

        if not self.spread:
            return TabularPolicy(task, exact=self.exact)
        rows, columns = np.arange(len(task.all_prompts)), np.arange(len(task.response_texts))
        uniforms = Key(hash_seed("start", self.start), 0, Stream.INIT).uniform(k=columns, l=rows[:, None])
        logits = self.spread * torch.special.ndtri(torch.from_numpy(uniforms))
        return TabularPolicy(task, logits.softmax(-1), self.exact)
