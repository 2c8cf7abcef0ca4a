"""Maximum-likelihood model of a finite task: the counts of verdicts on each pair of listed responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from agents.preference_models.metrics import foresight
from envs.games import bradley_terry_fit
from envs.games.validation import require_memory
from preference_duel.types import Completion, Duel

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.tabular import Cells

_LEAST = 1e-12


class DuelCounts:
    """Counts wins, one free number for each unordered pair of responses to each prompt.

    Args:
        cells: X prompts and N responses.
        prior: wins that each response of a pair has before any duel, >= 0. 1/2 (Jeffreys): an untried pair is even, and
            nothing is certain. 0 if whole distributions are played, which leave no pair untried.

    Attributes:
        wins: [X, N, N] float64, how often the row beat the column.
    """

    def __init__(self, cells: Cells, prior: float = 0.5) -> None:
        self.cells, self.prior = cells, prior
        shape = len(cells.rows), len(cells.columns), len(cells.columns)
        way = "a table of all pairs is not for this task: list fewer responses, or take a policy that is a network"
        require_memory(shape[1], 2, torch.device("cpu"), way, shape[0])
        self.wins = torch.zeros(shape, dtype=torch.float64)
        self._rewards: dict[int, Tensor] = {}  # of the counts as they are

    def add(self, duel: Duel) -> None:
        """Counts every asked pair; a probability is the mean of `votes` outcomes, exact pairs count by weight."""
        x, i, j, prob, votes = self._asked(duel)
        self._rewards = {}
        self.wins.index_put_((x, i, j), prob * votes, accumulate=True)
        self.wins.index_put_((x, j, i), (1 - prob) * votes, accumulate=True)

    def foresight(self, duel: Duel) -> dict[str, float]:
        """Returns how well the verdicts of a duel were foretold, before it is added; see `metrics`."""
        x, i, j, prob, _ = self._asked(duel)
        expected = self._share(self.wins[x, i, j], self.wins[x, j, i])
        return foresight(torch.where(i == j, 0.5, expected).clamp(_LEAST, 1 - _LEAST), prob)

    def matrix(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N, N] float64 the model's P(row beats column)."""
        wins = self.wins[self.cells.rows_of(prompts)]
        prob = self._share(wins, wins.mT)
        prob.diagonal(dim1=1, dim2=2).fill_(0.5)
        return prob

    def prob(
        self, prompts: Sequence[str], left: Sequence[Sequence[Completion]], right: Sequence[Sequence[Completion]]
    ) -> Tensor:
        """Returns [B, K, L] float64 the model's P(left beats right)."""
        rows = torch.arange(len(prompts))[:, None, None]
        return self.matrix(prompts)[rows, self.columns(left)[:, :, None], self.columns(right)[:, None, :]]

    def reward(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] float64 nats: the Bradley-Terry reward that fits the counts best, mean 0 over responses."""
        rows = self.cells.rows_of(prompts)
        missing = [row for row in dict.fromkeys(rows) if row not in self._rewards]
        if missing:
            wins = self.wins[missing]
            prob = self._share(wins, wins.mT)
            prob.diagonal(dim1=1, dim2=2).fill_(0.5)
            fits = bradley_terry_fit(prob, pairs=wins + wins.mT + 2 * self.prior)
            self._rewards |= dict(zip(missing, fits, strict=True))
        return torch.stack([self._rewards[row] for row in rows]).gather(1, self.columns(responses))

    def _share(self, wins: Tensor, losses: Tensor) -> Tensor:
        """Returns the chance of winning; 1/2 where nothing is known."""
        first, second = wins + self.prior, losses + self.prior
        return torch.where(first + second > 0, first / (first + second), 0.5)

    def counts(self, prompt: str) -> Tensor:
        """Returns [N, N] how many duels each pair has had."""
        wins = self.wins[self.cells.rows_of([prompt])[0]]
        return wins + wins.mT

    def columns(self, responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] the columns of responses."""
        return torch.tensor([[self.cells.column(response.text) for response in row] for row in responses])

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts."""
        return {"wins": self.wins.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`.

        Raises:
            ValueError: if they are of another task.
        """
        if state["wins"].shape != self.wins.shape:
            raise ValueError(f"the saved counts are {tuple(state['wins'].shape)}, the task's {tuple(self.wins.shape)}")
        self.wins = state["wins"].clone()
        self._rewards = {}

    def _asked(self, duel: Duel) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns row, columns of both responses, P and weight of every asked pair, in self-play each once."""
        b, k, l = duel.comparisons.nonzero(as_tuple=True)
        left, right = self.columns(duel.left), self.columns(duel.right)
        rows = torch.tensor(self.cells.rows_of(duel.prompts))
        prob = duel.prob[b, k, l].double()
        votes = duel.left_weight[b, k] * duel.right_weight[b, l] if duel.exact else torch.full_like(prob, duel.votes)
        return rows[b], left[b, k], right[b, l], prob, votes
