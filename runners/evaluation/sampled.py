"""Sampled evaluation on free text: verdicts on policies' samples against the start's, and the samples' diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from envs.votes.table import Matrix
from oracles import Oracle
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy
from preference_duel.types import Completion
from runners.evaluation.entrants import texts_of
from runners.evaluation.measures.diversity import different, distinct
from runners.evaluation.measures.length_control import length_controlled
from runners.run.evaluator import mean_win_rate, verdicts


@dataclass(frozen=True)
class SampledEvaluation:
    """Samples of a run's policies for some prompts, the same for every judge.

    Attributes:
        policies: by name.
        start: the opponent of the win rates.
        prompts: B prompts.
        pairs: n samples of each policy for each prompt.
        seed: random seed of the samples.
    """

    policies: Mapping[str, Policy]
    start: Policy
    prompts: Sequence[str]
    pairs: int
    seed: int

    @cached_property
    def samples(self) -> dict[str, list[list[Completion]]]:
        """The samples [B][n] of each policy by name."""
        return {name: self._draw(policy, 0) for name, policy in self.policies.items()}

    @cached_property
    def opponents(self) -> list[list[Completion]]:
        """The samples [B][n] of the start, independent of `samples`."""
        return self._draw(self.start, 1)

    def _draw(self, policy: Policy, at: int) -> list[list[Completion]]:
        with torch.no_grad():
            return policy.draw(self.prompts, self.pairs, Key(self.seed, at, Stream.EVALUATION))[0]

    @cached_property
    def gaps(self) -> dict[str, Matrix]:
        """[B, n] characters of each policy's sample less those of its opponent, by name."""
        return {name: _characters(rows) - _characters(self.opponents) for name, rows in self.samples.items()}

    def verdicts(self, oracle: Oracle) -> dict[str, Tensor]:
        """Returns [B, n] P(sample beats the start's beside it), NaN if unread, for each policy by name.

        Raises:
            Unanswered: if no pair of a policy was read.
        """
        return {name: verdicts(oracle, self.prompts, rows, self.opponents) for name, rows in self.samples.items()}

    def measures(self, verdicts: Mapping[str, Tensor], partial: bool) -> dict[str, dict[str, float | None]]:
        """Returns the measures of each policy by name; None if one is not defined.

        Args:
            verdicts: as `verdicts` returns them.
            partial: whether their judge may leave pairs unread.
        """
        rows: dict[str, dict[str, float | None]] = {}
        for name, prob in verdicts.items():
            rate = mean_win_rate(prob, partial)
            fair = length_controlled(prob.double().numpy(), self.gaps[name])
            rows[name] = {
                "win_rate": rate.mean,
                "win_rate_low": rate.low,
                "win_rate_high": rate.high,
                "length_controlled": fair.value,
                "length_controlled_low": fair.low,
                "length_controlled_high": fair.high,
                **({} if rate.unread is None else {"unread": rate.unread}),
                **self.diversity[name],
            }
        return rows

    def pairs_of(self, name: str, prob: Tensor) -> list[Matrix]:
        """Returns the verdicts on a policy's pairs of different texts, an array for each prompt."""
        texts = zip(texts_of(self.samples[name]), texts_of(self.opponents), prob.double().numpy(), strict=True)
        return [row[[a != b for a, b in zip(left, right, strict=True)]] for left, right, row in texts]

    @cached_property
    def diversity(self) -> dict[str, dict[str, float | None]]:
        """The diversity of each policy's samples by name; its entropy, in nats, is the mean of -log pi over them."""
        rows: dict[str, dict[str, float | None]] = {}
        for name, drawn in self.samples.items():
            with torch.no_grad():
                entropy = -self.policies[name].logprob(self.prompts, drawn).double().mean().item() + 0.0  # not -0
            texts = texts_of(drawn)
            grams = {f"distinct_{n}": distinct(texts, n) for n in (1, 2)}
            rows[name] = {**grams, "entropy": entropy, "different": different(texts)}
        return rows


def _characters(rows: Sequence[Sequence[Completion]]) -> Matrix:
    return np.array([[len(response.text) for response in row] for row in rows], dtype=np.float64)
