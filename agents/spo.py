"""Self-play preference optimisation by reward: the win rate against one's own draws, maximised by policy gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.policy_gradient import Draws, GradientConfig, PolicyGradient
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import one_of, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy

Pairs = Literal["all", "own"]


@dataclass(frozen=True)
class SPOConfig:
    """Self-play preference optimisation (Swamy et al. 2024, arXiv:2401.04056): play for the win rate, keep the average.

    The paper takes any no-regret learner on the reward; its guarantee is for the average policy.
    """

    tau: float = 0.0
    """KL coefficient around the starting policy, >= 0; the paper's game has none."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once. Ignored if the policy is exact."""

    pairs: Literal["all", "own"] = "all"
    """With --run.opponent: each sample meets all K of the opponent's (all), or one of its own (own), which for the same
    queries tries K times as many responses. Ignored if the policy is exact."""

    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Policy gradient by win rates; the paper takes any no-regret learner."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T, which the theory speaks of; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, got {self.tau}")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        require(self, pairs=one_of(Pairs))

    def build(self, *, policy: Policy, seed: int = 0) -> SPO:
        """Builds the agent around the policy that it trains."""
        return SPO(self, policy, seed)


class SPO(LearningAgent):
    """Draws from the policy, and moves it towards the draws that beat the others.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    plays_opponents = True

    def __init__(self, config: SPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.start = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.start)
        self._gradient = PolicyGradient(self.learner, self.start, config.tau, config.gradient)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, the right one an opponent's if there is one; exact policies list all."""
        count = self.config.responses
        proposal = self.self_play(self.policy, prompts, count)
        if self.config.pairs == "all" or self.policy.exact:
            return proposal
        if proposal.right is None:
            raise ValueError("pairs='own' belongs to --run.opponent; in self-play take pairs='all'")
        return dataclasses.replace(proposal, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step, with ppo some, on the win rates of the left samples.

        Raises:
            ValueError: if the seats hold different samples, and there is no opponent.
        """
        if not duel.self_play and self.fixed_opponent is None:
            raise ValueError("SPO learns from its own samples, and this duel's seats hold different ones")
        self.include_in_average(self.policy)
        leave_one_out = duel.self_play and not duel.exact
        known = None if duel.exact else duel.known
        win_rate = losses.win_rate(duel.prob, duel.right_weight, leave_one_out, known)  # [B, K] P(y beats the opponent)
        scalars = self._gradient.step(Draws(duel.prompts, duel.left, duel.left_weight, duel.exact), win_rate - 0.5)
        self.learner.updates += 1
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser, the value function and the number of updates."""
        return {"training": self.learner.state_dict(), "gradient": self._gradient.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.learner.load_state_dict(state["training"])
        self._gradient.load_state_dict(state["gradient"])
