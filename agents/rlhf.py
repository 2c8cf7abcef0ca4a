"""The classic pipeline: a Bradley-Terry reward fitted to all duels so far, and a policy gradient on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from agents.learning.learning_agent import LearningAgent
from agents.learning.policy_gradient import Draws, GradientConfig, PolicyGradient
from agents.optim.optimiser import OptimiserConfig
from agents.preference_models.factory import ModelConfig, model_of, predict_and_score
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class RLHFConfig:
    """Reinforcement learning from human feedback (Christiano et al. 2017; Ouyang et al. 2022, arXiv:2203.02155).

    Its reward is Bradley-Terry's: on cyclic preferences it has no reason to reach an equilibrium.
    """

    tau: float = 0.1
    """KL coefficient around the starting policy, > 0; InstructGPT takes 0.02 on rewards of its own scale."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once. Ignored if the policy is exact."""

    inner_steps: int = 1
    """Rounds of fresh draws, rewarded by the model, after each duel, >= 1."""

    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Policy gradient by rewards."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(planes=0))
    """The reward model of a network, `planes` 0; a table's is fitted to the counts."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, got {self.inner_steps}")
        if self.model.planes:
            raise ValueError(f"a reward knows no planes: model.planes must be 0, got {self.model.planes}")

    def build(self, *, policy: Policy, seed: int = 0) -> RLHF:
        """Builds the agent around the policy that it trains."""
        return RLHF(self, policy, seed)


class RLHF(LearningAgent):
    """Asks about pairs of its own draws, fits a reward to the verdicts, and learns from that reward.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, where kept.
        model: the reward.
    """

    def __init__(self, config: RLHFConfig, policy: Policy, seed: int) -> None:
        self.config, self.start = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.start)
        self.model = model_of(policy, config.model, seed)
        self._gradient = PolicyGradient(self.learner, self.start, config.tau, config.gradient)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws for both seats, or the whole distribution if the policy is exact."""
        with torch.no_grad():
            responses, weight = self.policy.draw(prompts, self.config.responses, self._key(0))
        return Proposal(responses, left_weight=weight if self.policy.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Adds the duel to what the reward is fitted to, and takes steps on fresh draws."""
        self.include_in_average(self.policy)
        prediction = predict_and_score(self.model, duel, "loss/model")
        self.model.add(duel)
        scalars: dict[str, float] = {}
        for step in range(self.config.inner_steps):
            with torch.no_grad():
                drawn, weight = self.policy.draw(duel.prompts, self.config.responses, self._key(1 + step))
            reward = self.model.reward(duel.prompts, drawn)  # [B, K]
            draws = Draws(duel.prompts, drawn, weight, self.policy.exact)
            scalars = self._gradient.step(draws, reward)
        self.learner.updates += 1
        return {**scalars, **prediction}

    def _key(self, step: int) -> Key:
        return Key(self.seed, self.learner.updates * (1 + self.config.inner_steps) + step, Stream.TOKEN)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of policy, copies and optimiser, of the value function, and of the reward."""
        parts = {"training": self.learner, "gradient": self._gradient, "model": self.model}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.learner.load_state_dict(state["training"])
        self._gradient.load_state_dict(state["gradient"])
        self.model.load_state_dict(state["model"])
