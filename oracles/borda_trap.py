"""Transitive preferences that no reward explains: the winner by majority is not the one that wins by most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from oracles.table import TableOracle
from preference_duel.checks import positive_finite, require, share
from preference_duel.keyed_random import Key, Stream, hash_seed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BordaTrapConfig:
    """The best response beats every other one barely, the second best crushes the rest.

    A reward fitted to all preferences (and Borda's mean win rate) ranks the second best first; the von Neumann winner
    is the best.
    """

    lam: float = 0.5
    """Depth of the trap, in [0, 1]: 0 is Bradley-Terry."""
    eps: float = 0.1
    """Nats by which the best beats every other one at lam = 1, > 0."""
    crush: float = 4.0
    """Nats by which the second best beats the rest at lam = 1, > 0."""
    scale: float = 2.0
    """Root mean square of the logits at lam = 0, in nats, > 0."""
    seed: int = 0
    """Names the game; each prompt has its own, and its own best response."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> TableOracle:
        """Builds the table of the listed responses.

        Raises:
            ValueError: if the task is not finite, or a field or the number of responses is out of range.
        """
        del device  # a table stays on the CPU
        if prompts is None or responses is None:
            raise ValueError(
                "oracle 'borda_trap' needs a finite task's prompts and responses: --task symbols or FILE.json"
            )
        require(self, lam=share, eps=positive_finite, crush=positive_finite, scale=positive_finite)
        if len(responses) < 3:
            raise ValueError(f"borda_trap needs 3 or more responses, got {len(responses)}: two fall into no trap")
        return TableOracle(partial(_prob, self, tuple(prompts), len(responses)), prompts, responses)


def _prob(config: BordaTrapConfig, prompts: tuple[str, ...], count: int, row: int) -> Tensor:
    key = Key(hash_seed("borda_trap", config.seed, prompts[row]), 0, Stream.INIT)
    uniforms = torch.from_numpy(key.uniform(k=np.arange(count), l=np.array([[0], [1]])))
    reward = torch.special.ndtri(uniforms[0] + 2.0**-54).sort(descending=True).values
    reward *= config.scale / (math.sqrt(2) * reward.std())
    ranked = reward[:, None] - reward[None, :]
    trap = ranked.clone()
    trap[1, 2:], trap[2:, 1] = config.crush, -config.crush
    trap[0, 1:], trap[1:, 0] = config.eps, -config.eps
    logits = (1 - config.lam) * ranked + config.lam * trap
    order = uniforms[1].argsort()
    return torch.sigmoid(logits)[order][:, order]
