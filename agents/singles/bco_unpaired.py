"""Binary classifier optimisation: each log-ratio says by itself whether its response is liked, less a running mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from agents import losses
from agents.singles.single_agent import SingleAgent, SingleConfig, labels
from preference_duel.checks import positive, require
from preference_duel.types import Duel

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy

MEMORY = 0.9
"""Weight of the past in the running mean of rewards; ours, the paper says a moving average."""


@dataclass(frozen=True)
class BCOUnpairedConfig(SingleConfig):
    """Binary classifier optimisation (Jung et al. 2024, arXiv:2404.04656) of single responses."""

    beta: float = 0.1
    """KL coefficient around the start, > 0 (DPO's 0.1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive)
        super().__post_init__()

    def build(self, *, policy: Policy, seed: int = 0) -> BCOUnpaired:
        """Builds the agent around the policy that it trains."""
        return BCOUnpaired(self, policy, seed)

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns the cross-entropy of the reward less its running mean."""
        return losses.bco_unpaired(ratio, label, point, self.beta)


class BCOUnpaired(SingleAgent):
    """Classifies single responses by their rewards beyond the running mean of past ones.

    Attributes:
        shift: [R] the running mean of rewards, nats; R is 1, but see `Policy.batch_means`.
    """

    def __init__(self, config: BCOUnpairedConfig, policy: Policy, seed: int) -> None:
        super().__init__(config, policy, seed)
        self.beta, self.shift = config.beta, torch.zeros(1, dtype=torch.float64)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's responses, and adds their rewards before it to the mean.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        label, weight = labels(duel)
        shift = self.shift.repeat_interleave(len(label) // len(self.shift))
        step = self.learn(duel, label, weight, shift, self.log_reference(duel))
        assert step.log_reference is not None
        reward = self.beta * (step.log_policy - step.log_reference).double().cpu()
        self.shift = MEMORY * self.shift + (1 - MEMORY) * self.policy.batch_means((weight * reward).sum(1))
        return step.scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the steps, and the running mean."""
        return {"agent": super().state_dict(), "shift": self.shift.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        super().load_state_dict(state["agent"])
        self.shift = state["shift"].clone()
