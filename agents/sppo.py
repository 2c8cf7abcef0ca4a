"""Self-play preference optimisation: regresses log-ratios onto the exponential-weights update of a game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch

from agents import losses
from agents.learning.learner import Batch, LearningAgent, policy_scalars, require_finite
from agents.optim.optimiser import OptimiserConfig

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy
    from preference_duel.types import Duel, Proposal

Pairs = Literal["all", "best_worst"]
Normaliser = Literal["half", "log_z"]


@dataclass(frozen=True)
class SPPOConfig:
    """Self-play preference optimisation (Wu et al. 2024, arXiv:2405.00675)."""

    eta: float = 1.0
    """Step size of the multiplicative weights, 1/nats, > 0; the inverse of a KL coefficient (the code's 1/beta). The
    paper's 7B models take 1e3. One step of rmsprop or adamw from pi_t is the same for any eta."""

    responses: int = 4
    """Draws per prompt from pi_t, K >= 2, each against all others (K(K-1)/2 queries); the paper takes 5. A policy that
    lists its whole law takes no heed of it."""

    leave_one_out: bool = True
    """Leave a sample's tie with itself out of its win rate, which makes it unbiased; False: the paper's mean over K."""

    pairs: Pairs = "all"
    """Draws that are learned from: all (the paper's expectation), or best and worst of K (its released code)."""

    normaliser: Normaliser = "half"
    """What stands for the update's log Z: half, eta/2 (the paper's Algorithm 1), or log_z, its value over the draws."""

    bradley_terry_projection: bool = False
    """Give each response one score before the comparison, as the released code does: a cyclic oracle then shows no
    signal. Needs feedback="probability"."""

    refresh_every: int = 1
    """Updates between renewals of pi_t, the frozen policy that draws and is played against, >= 1; the paper renews it
    after a pass over 20k prompts, about 310 updates of 64 prompts."""

    epochs: int = 1
    """Optimiser steps on each duel, >= 1."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T, which is what converges on cyclic games; costs one copy of the weights."""

    log_kl: bool = True
    """Log KL(pi_t || starting policy); costs one copy of the weights and one forward pass per update."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How the policy is moved; the paper takes rmsprop."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range or would be ignored."""
        if not self.eta > 0:
            raise ValueError(f"eta must be positive, got {self.eta}")
        if self.responses < 2:
            raise ValueError(
                f"responses must be at least 2, got {self.responses}: one draw has no other to play against"
            )
        if self.pairs not in get_args(Pairs):
            raise ValueError(f"pairs must be one of {get_args(Pairs)}, got {self.pairs!r}")
        if self.normaliser not in get_args(Normaliser):
            raise ValueError(f"normaliser must be one of {get_args(Normaliser)}, got {self.normaliser!r}")
        for name in ("refresh_every", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.optimiser.method == "lbfgs" and self.epochs > 1:
            raise ValueError(f"method='lbfgs' solves each duel in one step: leave epochs out, got {self.epochs}")

    def build(self, *, policy: Policy, seed: int = 0) -> SPPO:
        """Builds the agent around the policy that it trains."""
        return SPPO(self, policy, seed)


class SPPO(LearningAgent):
    """Plays K samples of a frozen pi_t against each other and moves the policy towards pi_t exp(eta P(y beats pi_t)).

    Attributes:
        policy: what is trained.
        opponent: pi_t, which samples and is played against.
        average: the mean of pi_1..pi_T, start included, if kept.
    """

    def __init__(self, config: SPPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.frozen()
        self.start = policy.frozen() if config.log_kl else None
        copies = {"opponent": self.opponent, "start": self.start}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews pi_t when its time has come.

        Raises:
            ValueError: if the duel has too few samples, outcomes where the projection needs probabilities, or a
                response that the policy could not have sampled.
        """
        config = self.config
        self.include_in_average(self.opponent, config.refresh_every)
        win_rate = self._win_rate(duel)  # [B, K] P(y beats pi_t)
        with torch.no_grad():
            log_old = self.opponent.logprob(duel.prompts, duel.left)  # [B, K] log pi_t(y)
            log_start = None if self.start is None else self.start.logprob(duel.prompts, duel.left)  # [B, K]
        values = {"win_rate": win_rate, "log_old": log_old, "weight": duel.left_weight}
        if config.normaliser == "log_z":
            values["log_z"] = losses.log_partition(win_rate, config.eta, duel.left_weight)  # [B]
        batch = Batch(duel.prompts, duel.left, {name: value.to(log_old) for name, value in values.items()})
        if config.pairs == "best_worst":
            batch = _best_and_worst(batch)

        def loss(part: Batch) -> Tensor:
            ratio = require_finite(self.policy.logprob(part.prompts, part.responses) - part["log_old"])  # [b, K]
            squares = losses.sppo(ratio, part["win_rate"], config.eta, part.values.get("log_z"))  # [b, K]
            return (part["weight"] * squares).sum(1)  # [b]

        def terms(part: Batch) -> Tensor:
            return part["weight"].sqrt() * self.policy.logprob(part.prompts, part.responses)  # [b, K]

        scalars = policy_scalars(duel.left_weight, log_old.to(win_rate), log_start)
        scalars |= _win_rate_scalars(win_rate, duel.left_weight)
        scalars |= self.learner.step(batch, loss, terms, config.epochs)
        self.renew(self.opponent, config.refresh_every)
        return scalars

    def _win_rate(self, duel: Duel) -> Tensor:
        prob = duel.prob
        if self.config.bradley_terry_projection:
            if duel.feedback != "probability":
                raise ValueError(
                    "bradley_terry_projection takes logits of probabilities, and outcomes have none; "
                    "play with feedback='probability', or leave the projection off"
                )
            prob = losses.bradley_terry(prob, duel.left_weight)
        samples = duel.self_play and not duel.exact
        return losses.win_rate(prob, duel.right_weight, leave_one_out=self.config.leave_one_out and samples)


def _win_rate_scalars(win_rate: Tensor, weight: Tensor) -> dict[str, float]:
    """Returns spread and maximum of the win rates [B, K], by tag."""
    spread = (weight * (win_rate - (weight * win_rate).sum(1, keepdim=True)).square()).sum(1).sqrt()
    return {"duel/win_rate_std": spread.mean().item(), "duel/win_rate_max": win_rate.amax(1).mean().item()}


def _best_and_worst(batch: Batch) -> Batch:
    """Returns the samples of highest and of lowest win rate alone, weighted 1/2 each."""
    columns = losses.best_and_worst(batch["win_rate"])  # [B, 2]
    responses = [[row[k] for k in chosen] for row, chosen in zip(batch.responses, columns.tolist(), strict=True)]
    values = {name: batch[name].gather(1, columns) for name in ("win_rate", "log_old")}
    values["weight"] = torch.full_like(values["log_old"], 0.5)
    return Batch(batch.prompts, responses, {**batch.values, **values})
