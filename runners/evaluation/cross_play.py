"""Cross-play of the policies of several runs, and four rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.games import alpha_rank, cross_play, elo, nash_average
from oracles import Oracle
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy
from runners.run.evaluator import win_rate


@dataclass(frozen=True)
class CrossPlay:
    """A cross-play table [A, A] and its 95 % interval; `low` and `high` are None if all is exact.

    `unread` is the share of the pairs that the oracle left unread, on which nothing rests; None if it always answers.
    """

    table: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    unread: float | None = None

    def ranks(self) -> dict[str, list[float]]:
        """Returns each ranking by name, one number for each policy."""
        nash = nash_average(self.table)
        return {
            "nash_average": nash.tolist(),
            "against_nash": (self.table @ nash).tolist(),
            "alpha_rank": alpha_rank(self.table).tolist(),
            "elo": elo(self.table).tolist(),
        }


def exact_cross_play(matrices: Tensor, distributions: Sequence[Tensor]) -> CrossPlay:
    """Returns the cross-play of whole distributions.

    Args:
        matrices: [B, N, N].
        distributions: A distributions [B, N].
    """
    return CrossPlay(cross_play(matrices, torch.stack(list(distributions))))


def sampled_cross_play(
    oracle: Oracle, policies: Sequence[Policy], prompts: Sequence[str], pairs: int, seed: int
) -> CrossPlay:
    """Estimates the cross-play of policies from samples; a policy plays the same samples against all others.

    Args:
        oracle: decides the duels.
        policies: A policies.
        prompts: B prompts.
        pairs: samples of each policy for each prompt.
        seed: random seed of the samples.
    """
    key = Key(seed, 0, Stream.EVALUATION)
    with torch.no_grad():
        samples = [policy.draw(prompts, pairs, key.at(i))[0] for i, policy in enumerate(policies)]
    count = len(policies)
    table, low, high = (torch.full((count, count), 0.5, dtype=torch.float64) for _ in range(3))
    unread: list[float] = []
    for a in range(count):
        for b in range(a + 1, count):
            rate = win_rate(oracle, prompts, samples[a], samples[b])
            table[a, b], table[b, a] = rate.mean, 1 - rate.mean
            unread += [] if rate.unread is None else [rate.unread]
            if rate.low is not None and rate.high is not None:
                low[a, b], low[b, a] = rate.low, 1 - rate.high
                high[a, b], high[b, a] = rate.high, 1 - rate.low
    ends = (low, high) if len(prompts) > 1 else (None, None)
    return CrossPlay(table, *ends, sum(unread) / len(unread) if unread else None)
