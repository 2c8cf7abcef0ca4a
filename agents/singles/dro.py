"""Direct reward optimisation: policy and value function fit the label of each response together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents import losses
from agents.optim.optimiser import OptimiserConfig
from agents.singles.single_agent import SingleAgent, SingleConfig, labels
from preference_duel.checks import positive, require
from preference_duel.types import Duel

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


class DRO(SingleAgent):
    """Takes one step of the policy and one of the value function on the same loss.

    Attributes:
        value: V(x), of a duel's prompts.
    """

    def __init__(self, config: DROConfig, policy: Policy, seed: int) -> None:
        from agents.learning.critic import PromptValue  # loads transformers

        super().__init__(config, policy, seed)
        self.tau, self.value = config.tau, PromptValue(policy, config.value)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step of each on the duel's responses.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        label, weight = labels(duel)
        value = self.value(duel).detach()
        step = self.learn(duel, label, weight, value, self.log_reference(duel))
        assert step.log_reference is not None
        ratio, label, weight = (one.to(value) for one in (step.log_policy - step.log_reference, label, weight))

        def loss() -> Tensor:
            return (weight * losses.dro(ratio, label, self.value(duel)[:, None], self.tau)).sum(1).mean()

        self.value.step(loss)
        return step.scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the policy's steps, and the value function with its optimiser."""
        return {"agent": super().state_dict(), **self.value.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        super().load_state_dict(state["agent"])
        self.value.load_state_dict(state)
