"""Self-play with a network of Stable-Baselines3: what its agents draw, against whom, and what a resumed run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.policies.tensors import restore, tensors
from agents.sb3.policy import SB3Policy
from agents.sb3.pool import PoolConfig, SnapshotPool, seeded
from agents.sb3.rollout import Rollout, rollout
from agents.sb3.state import load_optimiser, optimiser_state
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.types import Proposal


class SelfPlay:
    """One response of a policy for each prompt, against one of an older self.

    Args:
        policy: what is trained.
        config: of the pool of older policies.
        seed: names every draw.

    Attributes:
        policy: what is trained.
        start: as it was at first.
        pool: its older selves.
        updates: duels learned from so far.
    """

    def __init__(self, policy: SB3Policy, config: PoolConfig, seed: int) -> None:
        self.policy, self.start, self.seed, self.updates = policy, policy.frozen(), seed, 0
        self.pool = SnapshotPool(config, policy, seed)
        self._drawn: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns one draw of the policy and one of its opponent for each prompt."""
        self._drawn = self.policy.roll(prompts, 1, Key(self.seed, self.updates, Stream.TOKEN))
        left = [[response] for response in self.policy.game.completions(self._drawn[0])]
        right, _ = self.pool.opponent.draw(prompts, 1, Key(self.seed, self.updates, Stream.OPPONENT))
        return Proposal(left, right)

    def transitions(self, rows: Sequence[int] | None = None) -> Rollout:
        """Returns how the draws of the last proposal came about, all or those of some rows (`Duel.rows`).

        Raises:
            RuntimeError: if there was no proposal since the last update.
        """
        if self._drawn is None:
            raise RuntimeError("update() needs the duel of a propose(): it learns from how its own draws came about")
        boards, drawn = self._drawn if rows is None else (one[list(rows)] for one in self._drawn)
        return rollout(self.policy, boards, drawn)

    def train(self, model: Any, *settings: Any) -> None:
        """Lets an algorithm train on what it was given, by its own `train(*settings)`, and counts the update."""
        with seeded(hash_seed(self.seed, "train", self.updates)):
            model.train(*settings)
        self.policy.net.set_training_mode(False)
        self.updates, self._drawn = self.updates + 1, None

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its older selves, the optimiser and the number of updates."""
        return {
            "policy": tensors(self.policy),
            "start": tensors(self.start),
            "pool": self.pool.state_dict(),
            "optimiser": optimiser_state(self.policy.net.optimizer),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.policy, state["policy"])
        restore(self.start, state["start"])
        self.pool.load_state_dict(state["pool"])
        load_optimiser(self.policy.net.optimizer, state["optimiser"])
        self.updates, self._drawn = int(state["updates"]), None
