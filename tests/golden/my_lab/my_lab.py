"""An agent, an oracle, a task and a policy that belong to somebody else; LAB_DO="WHAT@N" makes trouble at update N."""

import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from agents import TabularPolicy
from envs import Completion, Proposal, Task
from envs.tasks.tokenizers import ListTokenizer
from preference_duel.keyed_random import Key


def trouble(place, count):
    """Does what LAB_DO asks for at this place and count."""
    what, _, when = os.environ.get("LAB_DO", "").partition("@")
    if when != f"{place}{count}":
        return
    if what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))
    elif what == "sleep":
        print("asleep", flush=True)
        time.sleep(60)
    else:
        os.kill(os.getpid(), signal.Signals[what])


@dataclass(frozen=True)
class LadderConfig:
    """Prefers what stands later in the alphabet."""

    steepness: float = 0.2
    """Nats per letter, >= 0."""
    broken: bool = False
    """Answer NaN."""

    def build(self, *, prompts=None, responses=None, device="cpu"):
        return Ladder(self)


class Ladder:
    antisymmetric = True

    def __init__(self, config):
        self.config = config
        self.description = f"the ladder of my lab, {config.steepness} per letter"

    def prob(self, prompts, first, second):
        distance = torch.tensor(
            [float(ord(a[:1] or " ") - ord(b[:1] or " ")) for a, b in zip(first, second, strict=True)]
        ).double()
        return torch.sigmoid(self.config.steepness * distance) * (float("nan") if self.config.broken else 1)


@dataclass(frozen=True)
class LettersConfig:
    """Five letters."""

    finite: ClassVar[bool] = True
    prompts: tuple[str, ...] = ("?", "!")
    """Distinct prompts."""

    def build(self, *, tokenizer=None):
        letters = ListTokenizer(["a", "b", "c", "d", "e", *self.prompts])
        legal = torch.zeros(letters.vocab_size, dtype=torch.bool)
        legal[2:7] = True
        listed = tuple(Completion(letter, (i,)) for i, letter in enumerate("abcde", start=2))
        return Task("letters", self.prompts, self.prompts, letters, 1, 1, 1, legal.numpy(), listed)


@dataclass(frozen=True)
class TableConfig:
    """A table whose n-th saving may end badly."""

    def build(self, *, task, device="cpu", seed=0):
        return Table(task)


class Table(TabularPolicy):
    saved = 0

    def save(self, directory: Path) -> None:
        super().save(directory)
        Table.saved += 1
        trouble("save", Table.saved)


@dataclass(frozen=True)
class NudgeConfig:
    """A policy gradient with momentum, and torch's dropout on its advantages."""

    step_size: float = 0.5
    """Of the logits, > 0."""
    forgets: bool = False
    """Return a loss that is not finite."""

    def build(self, *, policy, seed=0):
        return Nudge(self, policy, seed)


class Nudge:
    average = None

    def __init__(self, config, policy, seed):
        self.config, self.policy, self.seed, self.updates = config, policy, seed, 0
        self.optimiser = torch.optim.SGD(policy.parameters(), lr=config.step_size, momentum=0.9)

    def propose(self, prompts):
        return Proposal(self.policy.draw(prompts, 2, Key(self.seed, self.updates))[0])

    def update(self, duel):
        self.updates += 1
        advantage = torch.nn.functional.dropout(duel.prob[:, :, 0] + duel.prob[:, :, 1] - 1, 0.2)
        loss = -(advantage * self.policy.logprob(duel.prompts, duel.left)).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        trouble("update", self.updates)
        return {"loss/policy": float("nan") if self.config.forgets else loss.item()}

    def state_dict(self):
        return {
            "policy": self.policy.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state):
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
