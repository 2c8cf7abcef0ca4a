"""Self-play preference optimisation: regresses log-ratios onto the exponential-weights update of a game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.learning_agent import LearningAgent
from agents.learning.scalars import policy_scalars, win_rate_scalars
from agents.learning.scores import require_finite
from agents.optim.optimiser import OptimiserConfig
from agents.sppo_release import ReleaseOptions
from preference_duel.checks import at_least, positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class SPPOConfig(ReleaseOptions):
    """Self-play preference optimisation (Wu et al. 2024, arXiv:2405.00675)."""

    eta: float = 1.0
    """Step size of the multiplicative weights, 1/nats, > 0; the inverse of a KL coefficient (the code's 1/beta). The
    paper's 7B models take 1e3. One step of rmsprop or adamw from pi_t is the same for any eta."""
    responses: int = 4
    """Samples per prompt from pi_t, K >= 2, each against all others (K(K-1)/2 queries); the paper takes 5. Ignored if
    the policy is exact."""
    leave_one_out: bool = True
    """Leave a sample's tie with itself out of its win rate, which makes it unbiased; False: the paper's mean over K."""
    refresh_every: int = 1
    """Updates between renewals of pi_t, which samples and is played against, >= 1; in the paper 310, of 64 prompts."""
    epochs: int = 1
    """Optimiser steps on each duel, >= 1."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T, which is what converges on cyclic games; costs one copy of the weights."""
    log_kl: bool = True
    """Log KL(pi_t || starting policy); costs one copy of the weights and one forward pass per update."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy; the paper takes rmsprop."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range or would be ignored."""
        super().__post_init__()
        sampled = at_least(2, "one sample has no other to play against")
        require(self, eta=positive, responses=sampled, refresh_every=at_least(1), epochs=at_least(1))
        if self.optimiser.method == "lbfgs" and self.epochs > 1:
            raise ValueError(f"method='lbfgs' solves each duel in one step: leave epochs out, got {self.epochs}")

    def build(self, *, policy: Policy, seed: int = 0) -> SPPO:
        """Builds the agent around the policy that it trains."""
        return SPPO(self, policy, seed)


class SPPO(LearningAgent):
    """Plays K samples of a frozen pi_t (`opponent`) and regresses log pi/pi_t onto eta (P(y beats pi_t) - 1/2)."""

    def __init__(self, config: SPPOConfig, policy: Policy, seed: int) -> None:
        start = policy.snapshot() if config.log_kl else None
        self.config, self.opponent, self.start = config, policy.snapshot(), start
        super().__init__(policy, config.optimiser, seed, average=config.average, opponent=self.opponent, start=start)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets; renews pi_t every `refresh_every` updates.

        Raises:
            ValueError: if samples are too few, the projection gets outcomes, or the policy can't sample a response.
        """
        config, weight = self.config, duel.left_weight  # [B, K] 1/K, or pi_t(y) if exact
        self.include_in_average(self.policy, config.refresh_every)
        without_ties = config.leave_one_out and duel.self_play and not duel.exact
        known = None if duel.exact else duel.known
        win_rate = losses.win_rate(config.project(duel), duel.right_weight, without_ties, known)  # [B, K]
        with torch.no_grad():
            log_old = self.opponent.logprob(duel.prompts, duel.left)  # [B, K] log pi_t(y)
            log_start = None if self.start is None else self.start.logprob(duel.prompts, duel.left)  # [B, K]
        batch = Batch(duel.prompts, duel.left, {"win_rate": win_rate, "log_old": log_old, "weight": weight})
        batch = config.apply(batch, config.eta).to(log_old)

        def loss(part: Batch) -> torch.Tensor:
            ratio = require_finite(self.policy.logprob(part.prompts, part.responses) - part["log_old"])  # [b, K]
            return (part["weight"] * losses.sppo(ratio, part["win_rate"], config.eta, part.values.get("log_z"))).sum(1)

        def terms(part: Batch) -> torch.Tensor:
            return part["weight"].sqrt() * self.policy.logprob(part.prompts, part.responses)  # [b, K]

        scalars = win_rate_scalars(weight, win_rate) | policy_scalars(weight, log_old, log_start, duel.left)
        scalars |= self.learner.step(batch, loss, terms, config.epochs)
        self.renew(self.opponent, config.refresh_every)
        return scalars
