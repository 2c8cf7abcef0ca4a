"""The smallest agent of one's own: it learns nothing."""

from dataclasses import dataclass

from envs import Proposal
from preference_duel.keyed_random import Key


@dataclass(frozen=True)
class Config:
    """Draws and forgets."""

    def build(self, *, policy, seed=0):
        return Idle(policy, seed)


class Idle:
    average = None

    def __init__(self, policy, seed):
        self.policy, self.seed, self.updates = policy, seed, 0

    def propose(self, prompts):
        return Proposal(self.policy.draw(prompts, 2, Key(self.seed, self.updates))[0])

    def update(self, duel):
        self.updates += 1
        return {}

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]
