"""The two contracts of learning: a policy answers prompts, an agent proposes duels and learns from them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from envs.keyed import Key
from envs.registry import configure
from envs.tasks import Task
from envs.types import Completion, Duel, Proposal

AGENTS = {
    "sppo": "agents.sppo:SPPOConfig",
    "dpo": "agents.dpo:DPOConfig",
    "ipo": "agents.ipo:IPOConfig",
    "inpo": "agents.inpo:INPOConfig",
    "egpo": "agents.egpo:EGPOConfig",
    "comal": "agents.comal:COMALConfig",
    "nash_md": "agents.nash_md:NashMDConfig",
    "oelhf": "agents.oelhf:OELHFConfig",
    "pelhf": "agents.pelhf:PELHFConfig",
    "spo": "agents.spo:SPOConfig",
    "rlhf": "agents.rlhf:RLHFConfig",
    "xpo": "agents.xpo:XPOConfig",
    "ppo": "agents.sb3.on_policy:PPOConfig",
    "maskable_ppo": "agents.sb3.on_policy:MaskablePPOConfig",
    "a2c": "agents.sb3.on_policy:A2CConfig",
    "dqn": "agents.sb3.dqn:DQNConfig",
}
POLICIES = {
    "tabular": "agents.tabular:TabularConfig",
    "tiny": "agents.hf_config:TinyConfig",
    "hf": "agents.hf_config:HFConfig",
    "sb3": "agents.sb3.policy:SB3PolicyConfig",
}


OwnPolicy = tuple[str, Mapping[str, Any]]
"""The policy that an agent can't do without, and fields of it: `own_policy` of its configuration is the default."""


class Policy(nn.Module, ABC):
    """A law over responses for each prompt.

    `exact` is True where `draw` returns every response of a finite task with its probability as weight; the
    update that an agent makes of it is the population's, free of sampling noise.
    """

    exact: bool = False

    worlds: int = 1
    """Independent worlds whose prompts follow one another in its task: each learns as if it were alone."""

    learning_rate: float = 2e-4
    """Where an agent's settings name none: for rmsprop and adamw, on small networks; large ones want less."""

    @abstractmethod
    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws n responses for each prompt, or lists all of them where exact.

        Args:
            prompts: B prompts.
            n: draws per prompt; ignored where exact.
            key: names every random number: row b, draw k and token t use `key.uniform(k=k, l=b, vote=t)`, so the
                internal batch size changes nothing.

        Returns:
            Responses [B][n], and their weights [B, n] on the CPU: 1/n for samples, probabilities where exact.
        """

    @abstractmethod
    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns the log of the law that `draw` uses (masks, limits, EOS, temperature included).

        Returns:
            [B, K] nats, summed over tokens, differentiable, on the policy's device.
        """

    @torch.no_grad()
    def law(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns the probabilities of all responses of a finite task.

        Args:
            prompts: B prompts.
            responses: the N responses, the same for every prompt.

        Returns:
            [B, N] float64 on the CPU.
        """
        return self.logprob(prompts, [list(responses)] * len(prompts)).double().exp().cpu()

    def parts(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> list[list[int]]:
        """Returns the prompts [B] in groups that learn in one backward pass each, for the sake of memory."""
        del responses
        return [list(range(len(prompts)))]

    @abstractmethod
    def blend(self, other: Self, weight: float) -> None:
        """Moves this policy a `weight` of the way to another of its kind, in place.

        The mean is the one natural to the kind: of probabilities for tabular policies, of parameters for networks.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes the policy so that people and other tools can load it."""

    def frozen(self) -> Self:
        """Returns a copy that does not learn."""
        twin = copy.deepcopy(self)
        twin.requires_grad_(False)
        return twin.eval()

    @property
    def sharded(self) -> bool:
        """True where parameters are spread over processes, which then must learn in equally many passes."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


@runtime_checkable
class Agent(Protocol):
    """Proposes responses for both seats and learns from the duels that come back.

    Agents never see an oracle: all they learn is in `Duel`. One may say of itself, as a class attribute that is True:
    `learns_from_files` (duels of others, --run.data), `one_pass` (each comparison of a file counts once),
    `learns_worlds` (nothing that it does mixes prompts, so that the seeds of a benchmark can learn in one batch).
    """

    policy: Policy
    average: Policy | None
    """The mean of pi_1..pi_T, start included: what the theory of no-regret play speaks of. None where not kept."""

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns the responses that this agent wants to see judged."""
        ...

    def update(self, duel: Duel) -> dict[str, float]:
        """Learns from one played proposal; returns scalars for the log, by tag."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that a resumed run needs: tensors, numbers and strings in nested dicts."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        ...


def make(name: str, *, policy: Policy, seed: int = 0, **fields: Any) -> Agent:
    """Builds an agent from its name and the fields of its configuration.

    Args:
        name: a built-in, or "module:Config" of your own.
        policy: the policy that it trains.
        seed: names every draw of the agent.
        **fields: fields of the configuration.

    Raises:
        UnknownNameError: if the name or a field is unknown.
    """
    return configure("agent", name, AGENTS, fields).build(policy=policy, seed=seed)


def make_policy(name: str, *, task: Task, device: str = "cpu", seed: int = 0, **fields: Any) -> Policy:
    """Builds a policy: "tabular", "tiny", a transformers directory or hub id, or "module:Config".

    Raises:
        UnknownNameError: if the name or a field is unknown.
    """
    if name not in POLICIES and ":" not in name:
        name, fields = "hf", {"path": name, **fields}
    return configure("policy", name, POLICIES, fields).build(task=task, device=device, seed=seed)
