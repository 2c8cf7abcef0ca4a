"""Exact evaluation on a finite task under one oracle: payoffs, equilibria, intransitivity, and measures of policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from envs.games import (
    intransitivity,
    kl_divergence,
    payoff_matrix,
    regularised_nash,
    von_neumann_winner,
)
from envs.tasks.task import Task
from runners.evaluation.judges import Judge
from runners.run.evaluator import exact_measures, over_prompts, require_affordable

NASH, WINNER = "regularised Nash", "von Neumann winner"


@dataclass(frozen=True)
class ExactEvaluation:
    """The preference games of some prompts under one judge, and what policies achieve in them.

    Attributes:
        task: a finite task.
        judge: the oracle that defines the payoffs.
        prompts: B prompts.
    """

    task: Task
    judge: Judge
    prompts: Sequence[str]

    @cached_property
    def matrices(self) -> Tensor:
        """[B, N, N] the payoff of every prompt."""
        require_affordable(self.prompts, self.task.response_texts, "--prompts")
        return payoff_matrix(self.judge.oracle, self.prompts, self.task.response_texts)

    @cached_property
    def winner(self) -> Tensor:
        """[B, N] a von Neumann winner of every prompt."""
        return torch.stack([von_neumann_winner(matrix).policy for matrix in self.matrices])

    @cached_property
    def intransitivity(self) -> dict[str, float | None]:
        """Each measure of intransitivity, averaged over prompts; None if it has no finite value."""
        return {name: _mean(values) for name, values in asdict(intransitivity(self.matrices)).items()}

    def measures(
        self, distributions: Mapping[str, Tensor], start: Tensor, tau: float
    ) -> dict[str, dict[str, float | None]]:
        """Returns the measures of each distribution and of the equilibria, averaged over prompts.

        Args:
            distributions: name -> [B, N].
            start: [B, N] the reference of the regularised game, and the opponent of the win rates.
            tau: KL coefficient of the regularised game.
        """
        solved = self.equilibria(start, tau)
        rows = {**distributions, **solved}
        return {name: self._measures(row, start, solved.get(NASH), tau) for name, row in rows.items()}

    def equilibria(self, start: Tensor, tau: float) -> dict[str, Tensor]:
        """Returns the solved policies by name, each [B, N]; no regularised one if `start` leaves out a response."""
        if not (start > 0).all():
            return {WINNER: self.winner}
        return {NASH: regularised_nash(self.matrices, start, tau).policy, WINNER: self.winner}

    def _measures(
        self, distribution: Tensor, start: Tensor, nash: Tensor | None, tau: float
    ) -> dict[str, float | None]:
        measures = exact_measures(distribution, self.matrices, start, tau, nash)
        win_rate = over_prompts(measures.pop("win_rate"))
        return {
            "win_rate": win_rate.mean,
            "win_rate_low": win_rate.low,
            "win_rate_high": win_rate.high,
            "exploitability": _mean(measures.pop("exploitability")),
            "kl_to_start": _mean(kl_divergence(distribution, start)),
            "entropy": _mean(torch.special.entr(distribution).sum(-1)),
            **{name: _mean(values) for name, values in measures.items()},
        }


def _mean(values: Tensor) -> float | None:
    mean = values.mean().item()
    return mean if math.isfinite(mean) else None
