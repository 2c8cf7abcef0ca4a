"""Self-play identity preference optimisation: regresses margins onto preferences between one's own draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from agents import losses
from agents.learning.learner import Training, policy_scalars
from agents.learning.pairwise import pair_step, responses_of
from agents.optim.optimiser import OptimiserConfig
from agents.policies.mixtures import Geometric
from preference_duel.keyed_random import Key, Stream
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


class IPO:
    """Draws independent responses of the policy itself and moves their margins towards (P - 1/2)/tau.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_from_files = True
    learns_worlds = True

    def __init__(self, config: IPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.average = policy.frozen() if config.average else None
        self._start = policy.frozen()
        self._training = Training(policy, config.optimiser, average=self.average, start=self._start)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws for both seats, or the whole law where the policy is exact."""
        player = self.policy if self.config.mixture == 0 else Geometric(self.policy, self._start, self.config.mixture)
        key = Key(self.seed, self._training.updates, Stream.TOKEN)
        with torch.no_grad():
            responses, weight = player.draw(prompts, self.config.responses, key)
        return Proposal(responses, left_weight=weight if player.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's pairs: one's own draws, or pairs that were given (Azar et al. 2023).

        Raises:
            ValueError: if the duel has no asked pair, or the policy could not have drawn a response.
        """
        training = self._training
        training.include_in_average(self.policy, training.updates + 1)
        with torch.no_grad():
            log_start = self._start.logprob(duel.prompts, responses_of(duel))
        rate, count = training.learning_rate, len(duel.left[0])
        squares = partial(losses.ipo, tau=self.config.tau)
        normalised = self.config.length_normalised
        step = pair_step(training, duel, log_start, squares, squares=True, length_normalised=normalised)
        training.updates += 1
        scalars = policy_scalars(duel.left_weight, step.log_policy[:, :count], log_start[:, :count])
        return {**scalars, "loss/learning_rate": rate, "loss/policy": step.loss, "loss/grad_norm": step.grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._training.load_state_dict(state)
