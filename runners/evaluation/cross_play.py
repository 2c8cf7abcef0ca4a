"""Policies of several runs against each other: who beats whom, and four ways to rank them."""

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
class Meetings:
    """A cross-play table [A, A] and its 95 % interval; `low` and `high` are None where all is exact."""

    table: Tensor
    low: Tensor | None = None
    high: Tensor | None = None

    def ranks(self) -> dict[str, list[float]]:
        """Returns each ranking by name, one number for each policy."""
        nash = nash_average(self.table)
        return {
            "nash_average": nash.tolist(),
            "against_nash": (self.table @ nash).tolist(),
            "alpha_rank": alpha_rank(self.table).tolist(),
            "elo": elo(self.table).tolist(),
        }


def exact_meetings(matrices: Tensor, laws: Sequence[Tensor]) -> Meetings:
    """Returns the meetings of whole laws.

    Args:
        matrices: [B, N, N].
        laws: A laws [B, N].
    """
    return Meetings(cross_play(matrices, torch.stack(list(laws))))


def drawn_meetings(
    oracle: Oracle, policies: Sequence[Policy], prompts: Sequence[str], pairs: int, seed: int
) -> Meetings:
    """Returns the meetings of policies by their draws, each policy's its own and the same against all others.

    Args:
        oracle: who judges.
        policies: A policies.
        prompts: B prompts.
        pairs: draws of each policy for each prompt.
        seed: names the draws.
    """
    key = Key(seed, 0, Stream.EVALUATION)
    with torch.no_grad():
        draws = [policy.draw(prompts, pairs, key.at(i))[0] for i, policy in enumerate(policies)]
    count = len(policies)
    table, low, high = (torch.full((count, count), 0.5, dtype=torch.float64) for _ in range(3))
    for a in range(count):
        for b in range(a + 1, count):
            met = win_rate(oracle, prompts, draws[a], draws[b])
            table[a, b], table[b, a] = met.mean, 1 - met.mean
            if met.low is not None and met.high is not None:
                low[a, b], low[b, a] = met.low, 1 - met.high
                high[a, b], high[b, a] = met.high, 1 - met.low
    return Meetings(table, low, high) if len(prompts) > 1 else Meetings(table)
