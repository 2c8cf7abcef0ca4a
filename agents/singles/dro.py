"""Direct reward optimisation: policy and value function fit the label of each response together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from agents import losses
from agents.learning.critic import critic_of
from agents.optim.optimiser import Optimiser, OptimiserConfig
from agents.policies.tensors import restore, tensors
from agents.singles.single_agent import SingleAgent, SingleConfig, labels
from preference_duel.checks import positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class DROConfig(SingleConfig):
    """Direct reward optimisation with a value function, DRO-V (Richemond et al. 2024, arXiv:2405.19107).

    It ends at ref exp(q / tau) / Z, whatever samples: on thumbs against the start the optimum of offline IPO.
    """

    tau: float = 0.1
    """KL coefficient around the start, > 0, in units of the label (the paper takes 1 on rewards of its own scale)."""

    value: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adamw", momentum=0.9))
    """Optimiser of the value function; its learning rate is 1e-3 if none is given."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive)
        super().__post_init__()

    def build(self, *, policy: Policy, seed: int = 0) -> DRO:
        """Builds the agent around the policy that it trains."""
        return DRO(self, policy, seed)

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns half the squared distance from the optimum, given the prompt's value."""
        return losses.dro(ratio, label, point, self.tau)


class DRO:
    """Takes one step of the policy and one of the value function on the same loss.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, if kept.
        agent: takes the policy's steps.
        critic: the value function V(x).
    """

    learns_from_files = True
    learns_from_thumbs = True
    learns_from_lists = True

    def __init__(self, config: DROConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy = config, policy
        self.agent = SingleAgent(config, policy, seed)
        self.average = self.agent.average
        self.critic = critic_of(policy)
        self.optimiser = Optimiser(self.critic.parameters(), config.value, 1e-3)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.agent.propose(prompts)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step of each on the duel's responses.

        Raises:
            ValueError: as `SingleAgent.update`.
        """
        label, weight = labels(duel)
        with torch.no_grad():
            value = self._value(duel)
        step = self.agent.learn(duel, label, weight, value)
        assert step.log_reference is not None
        values = [tensor.to(value) for tensor in (step.log_policy - step.log_reference, label, weight)]
        self.optimiser.step(lambda: self._accumulate(duel, *values))
        return step.scalars

    def _value(self, duel: Duel) -> Tensor:
        """Returns [B] V(x), the value before a response's first token."""
        return self.critic(duel.prompts, [row[:1] for row in duel.left])[:, 0, 0]

    def _accumulate(self, duel: Duel, ratio: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        loss = (weight * losses.dro(ratio, label, self._value(duel)[:, None], self.config.tau)).sum(1).mean()
        loss.backward()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the policy's steps, and the value function with its optimiser."""
        return {
            "agent": self.agent.state_dict(),
            "critic": tensors(self.critic),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.agent.load_state_dict(state["agent"])
        restore(self.critic, state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
