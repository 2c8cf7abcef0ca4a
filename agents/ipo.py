"""Self-play identity preference optimisation: regresses margins onto preferences between one's own draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agents import losses
from agents.learning.learner import LearningAgent, policy_scalars, responses_of
from agents.optim.optimiser import OptimiserConfig
from agents.policies.geometric import geometric
from preference_duel.protocols import Policy
from preference_duel.types import Duel, Proposal


@dataclass(frozen=True)
class IPOConfig:
    """Self-play IPO (Calandriello et al. 2024, arXiv:2403.08635): converges to the tau-regularised Nash policy."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's summarisation takes 0.1 to 1."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once; the paper takes 2. A policy that lists its whole law
    takes no heed of it."""

    mixture: float = 0.0
    """Share b of the start in the law that is drawn from, pi^(1-b) ref^b token by token, in [0, 1); above 0 it is
    IPO-MD, for which the paper takes 0.125."""

    length_normalised: bool = False
    """Divide log-ratios by the responses' tokens, as some released codes do; the paper's are sums."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(decay=200.0))
    """How the policy is moved. With momentum the last iterate need not converge on a cycle, and without decay it
    keeps the noise of single outcomes; the fall over 200 steps is ours."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        if not 0 <= self.mixture < 1:
            raise ValueError(f"mixture must lie in [0, 1), got {self.mixture}; at 1 the start plays with itself")

    def build(self, *, policy: Policy, seed: int = 0) -> IPO:
        """Builds the agent around the policy that it trains."""
        return IPO(self, policy, seed)


class IPO(LearningAgent):
    """Draws independent responses of the policy itself and moves their margins towards (P - 1/2)/tau.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_from_files = True

    def __init__(self, config: IPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.start = config, policy.frozen()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.start)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws for both seats, or the whole law where the policy is exact."""
        player = self.policy if self.config.mixture == 0 else geometric(self.policy, self.start, self.config.mixture)
        return self.self_play(player, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's pairs: one's own draws, or pairs that were given (Azar et al. 2023).

        Raises:
            ValueError: if the duel has no asked pair, or the policy could not have drawn a response.
        """
        self.include_in_average(self.policy)
        with torch.no_grad():
            log_start = self.start.logprob(duel.prompts, responses_of(duel))  # [B, K], of a file [B, K + L]

        def loss(margin: Tensor, prob: Tensor) -> Tensor:
            return losses.ipo(margin, prob, self.config.tau)  # [b, K, L] (margin - (P - 1/2) / tau)^2

        normalised = self.config.length_normalised
        scalars, log_policy = self.learner.step_on_pairs(
            duel, log_start, loss, squares=True, length_normalised=normalised
        )
        k = len(duel.left[0])
        return {**policy_scalars(duel.left_weight, log_policy[:, :k], log_start[:, :k]), **scalars}
