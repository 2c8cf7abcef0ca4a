"""Older selves of a policy: whom it plays against, and whose mean is the average of self-play."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agents.policies.mixtures import Mixture
from agents.policies.tensors import restore, tensors
from agents.sb3.sb3_config import PoolConfig
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy


class SnapshotPool:
    """A reservoir of snapshots (Vitter 1985, algorithm R, by keyed uniforms).

    Args:
        config: how many, how often, and which of them plays.
        policy: of which they are snapshots; the first one is taken now.
        seed: names the draws of the reservoir.

    Attributes:
        members: what is kept.
        latest: the newest snapshot.
        average: the mean of the members, as a policy.
    """

    def __init__(self, config: PoolConfig, policy: Policy, seed: int) -> None:
        self.config, self.seed = config, seed
        self.latest = policy.frozen()
        self.members = [self.latest]
        self.average = Mixture(self.members)
        self.taken = 1

    @property
    def opponent(self) -> Policy:
        """Player of the other seat."""
        return self.average if self.config.against == "pool" else self.latest

    def renew(self, policy: Policy, updates: int) -> None:
        """Takes a snapshot where one is due after so many updates."""
        if updates % self.config.renew_every:
            return
        self.latest = policy.frozen()
        self.taken += 1
        if len(self.members) < self.config.size:
            self.members.append(self.latest)
        else:
            place = int(Key(self.seed, self.taken, Stream.SIDE).uniform() * self.taken)
            if place < self.config.size:
                self.members[place] = self.latest
        self.average = Mixture(self.members)

    def state_dict(self) -> dict[str, Any]:
        """Returns the snapshots and their count."""
        members = {str(i): tensors(member) for i, member in enumerate(self.members)}
        return {"members": members, "latest": tensors(self.latest), "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.taken = int(state["taken"])
        saved = [state["latest"], *(state["members"][str(i)] for i in range(len(state["members"])))]
        self.latest, *self.members = [_restored(self.latest, one) for one in saved]
        self.average = Mixture(self.members)


def _restored(like: Policy, saved: Mapping[str, Any]) -> Policy:
    policy = like.frozen()
    restore(policy, saved)
    return policy


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators, from which Stable-Baselines3 draws its minibatches, and puts them back."""
    before = np.random.get_state()  # noqa: NPY002 - the generator that is read
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
