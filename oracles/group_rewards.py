"""Rewards of a group of completions from pairwise comparisons inside the group, for trainers such as GRPO and RLOO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from oracles.base import answers_of, draw
from preference_duel import groups
from preference_duel.groups import Aggregate
from preference_duel.keyed_random import Key
from preference_duel.protocols import Oracle

Schedule = Literal["all_pairs", "circular", "chunks", "anchor", "swiss"]
"""Pairs that meet: see `preference_duel.groups.FixedSchedule`; `swiss` plays rounds of pairs of nearest scores."""
Pair = tuple[int, int, int]
"""A prompt's row and two of its completions, the lower number first."""


@dataclass(frozen=True)
class GroupRewards:
    """Rewards and what they rest on.

    Attributes:
        rewards: [B, K] float64.
        queries: questions that the oracle was asked, either order of a pair counted.
        pairs: the comparisons that were scheduled, those of equal texts and of unanswered questions included.
        unanswered: those of `pairs` that the oracle did not answer; no reward rests on them.
        prob: [B, K, K] float64 P(row beats column), or the outcome drawn; 1/2 where none was answered.
    """

    rewards: Tensor
    queries: int
    pairs: tuple[Pair, ...]
    unanswered: tuple[Pair, ...]
    prob: Tensor


def group_rewards(
    oracle: Oracle,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    *,
    schedule: Schedule = "all_pairs",
    aggregate: Aggregate = "win_rate",
    leave_one_out: bool = True,
    key: Key | None = None,
) -> GroupRewards:
    """Compares the completions of each prompt with each other, and rewards them.

    Each question is asked once, in both orders if the oracle is not antisymmetric, and never about equal texts, which
    tie. A question that the oracle leaves unread (NaN) was not answered: its comparison is dropped, not scored.

    Args:
        oracle: the oracle.
        prompts: B prompts.
        completions: `[B][K]`, K >= 2 for every prompt.
        schedule: the pairs that meet. all_pairs: K(K-1)/2; circular: each with its two neighbours on a ring, K (one if
            K = 2); chunks: all pairs inside consecutive fours; anchor: each against the first, K - 1; swiss: log2 K
            rounds (rounded up) of K/2 pairs, those with fewest comparisons first, each with the nearest win rate among
            those that it has not met.
        aggregate: what a completion's comparisons are worth, see `preference_duel.groups.aggregate`.
        leave_one_out: False counts a completion's tie with itself among its comparisons, as a mean over all K does.
        key: names one outcome drawn for each comparison, of row b at episode `key.episode` + b; None: rewards rest on
            P itself.

    Returns:
        The rewards, the number of questions and the pairs.

    Raises:
        ValueError: if the groups are of different sizes or smaller than 2, a completion is left without an answered
            comparison, or the oracle answers anything but probabilities.
    """
    sizes = {len(row) for row in completions}
    if len(completions) != len(prompts) or len(sizes) > 1 or any(size < 2 for size in sizes):
        raise ValueError(
            f"group_rewards needs as many completions, at least 2, for each of the {len(prompts)} prompts; got "
            f"{len(completions)} groups of {sorted(sizes)}"
        )
    if not prompts:
        nothing = torch.zeros(0, 0, dtype=torch.float64)
        return GroupRewards(nothing, 0, (), (), nothing[..., None])
    table = _Comparisons(oracle, prompts, completions, key)
    if schedule == "swiss":
        _play_swiss(table, sizes.pop())
    else:
        meet = groups.scheduled_pairs(schedule, sizes.pop()).triu(1).nonzero().tolist()
        table.add([(b, i, j) for b in range(len(prompts)) for i, j in meet])
    unanswered = tuple(pair for pair in table.pairs if not table.compared[pair])
    rewards = groups.aggregate(table.prob, table.compared, aggregate, leave_one_out=leave_one_out)
    return GroupRewards(rewards, table.queries, tuple(table.pairs), unanswered, table.prob)


class _Comparisons:
    """The comparisons so far: `prob` [B, K, K], 1/2 where `compared` [B, K, K] is False, `pairs` and `queries`."""

    def __init__(
        self, oracle: Oracle, prompts: Sequence[str], completions: Sequence[Sequence[str]], key: Key | None
    ) -> None:
        self.oracle, self.prompts, self.completions, self.key = oracle, prompts, completions, key
        shape = len(prompts), len(completions[0]), len(completions[0])
        self.prob = torch.full(shape, 0.5, dtype=torch.float64)
        self.compared = torch.zeros(shape, dtype=torch.bool)
        self.pairs: list[Pair] = []
        self.queries = 0
        self._answers: dict[tuple[int, str, str], float] = {}

    def add(self, pairs: Sequence[Pair]) -> None:
        """Compares pairs that have not met."""
        self.pairs += pairs
        texts = [(b, self.completions[b][i], self.completions[b][j]) for b, i, j in pairs]
        self._ask(texts)
        tie = torch.tensor([first == second for _, first, second in texts])
        answers = [0.5 if question[1] == question[2] else self._answers[question] for question in texts]
        chance = torch.tensor(answers, dtype=torch.float64)
        won, (rows, one, other) = chance, torch.tensor(pairs).T
        if self.key is not None:
            key = self.key.at(np.asarray(self.key.episode) + rows.numpy())
            won = torch.where(tie, chance, draw(chance, key, one.numpy(), other.numpy()).double())
        answered = ~chance.isnan()
        rows, one, other, won = rows[answered], one[answered], other[answered], won[answered]
        self.prob[rows, one, other], self.prob[rows, other, one] = won, 1 - won
        self.compared[rows, one, other] = self.compared[rows, other, one] = True

    def _ask(self, texts: Sequence[tuple[int, str, str]]) -> None:
        """Asks the questions that were not asked before, in one order or both."""
        new: dict[tuple[int, str, str], None] = {}
        for b, first, second in texts:
            if first != second and (b, first, second) not in self._answers and (b, second, first) not in new:
                new[b, first, second] = None
        if not new:
            return
        answers = self._prob(list(new))
        if not self.oracle.antisymmetric:
            answers = (answers + 1 - self._prob([(b, second, first) for b, first, second in new])) / 2
        for (b, first, second), prob in zip(new, answers.tolist(), strict=True):
            self._answers[b, first, second], self._answers[b, second, first] = prob, 1 - prob

    def _prob(self, texts: Sequence[tuple[int, str, str]]) -> Tensor:
        """Returns [N] float64 P(first beats second), NaN if the oracle did not answer."""
        prompts = [self.prompts[b] for b, _, _ in texts]
        seats = [first for _, first, _ in texts], [second for _, _, second in texts]
        answers = answers_of(self.oracle, prompts, *seats, partial=True)
        self.queries += len(texts)
        return answers.double()


def _play_swiss(table: _Comparisons, count: int) -> None:
    met = torch.zeros_like(table.compared)
    for _ in range(math.ceil(math.log2(count))):
        compared = table.compared.sum(2)
        scores = torch.where(compared > 0, (table.prob * table.compared).sum(2) / compared.clamp(min=1), 0.5)
        pairs = [
            (b, *pair)
            for b in range(len(table.prompts))
            for pair in _swiss_round(scores[b].tolist(), met[b].tolist(), met[b].sum(1).tolist())
        ]
        for b, i, j in pairs:
            met[b, i, j] = met[b, j, i] = True
        table.add(pairs)


def _swiss_round(score: list[float], met: list[list[bool]], games: list[int]) -> list[tuple[int, int]]:
    """Returns disjoint pairs that have not met: those with fewest games first, each with the nearest score."""
    free = sorted(range(len(score)), key=lambda i: (games[i], -score[i], i))
    pairs = []
    while free:
        one, *free = free
        rivals = [i for i in free if not met[one][i]]
        if rivals:
            other = min(rivals, key=lambda i: (abs(score[i] - score[one]), games[i], i))
            free.remove(other)
            pairs.append((min(one, other), max(one, other)))
    return pairs
