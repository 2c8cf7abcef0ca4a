"""Self-play preference optimisation: regresses log-ratios onto the exponential-weights update of a game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents import losses
from agents.learning.learner import Batch, Training, policy_scalars, require_finite
from agents.optim.optimiser import OptimiserConfig
from preference_duel.keyed_random import Key, Stream
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


class SPPO:
    """Plays K draws of a frozen pi_t against each other and moves the policy towards pi_t exp(eta P(y beats pi_t)).

    Attributes:
        policy: what is trained.
        opponent: pi_t, which draws and is played against.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_worlds = True

    def __init__(self, config: SPPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.opponent = policy.frozen()
        self.average = policy.frozen() if config.average else None
        self._start = policy.frozen() if config.log_kl else None
        self._training = Training(
            policy, config.optimiser, opponent=self.opponent, average=self.average, start=self._start
        )

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of pi_t for both seats, or its whole law where it is exact."""
        key = Key(self.seed, self._training.updates, Stream.TOKEN)
        responses, weight = self.opponent.draw(prompts, self.config.responses, key)
        return Proposal(responses, left_weight=weight if self.opponent.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews pi_t when its time has come.

        Raises:
            ValueError: if the duel has too few draws, outcomes where the projection needs probabilities, or a
                response that the policy could not have drawn.
        """
        config, training = self.config, self._training
        if training.updates % config.refresh_every == 0:
            training.include_in_average(self.opponent, training.updates // config.refresh_every + 1)
        win_rate = self._win_rate(duel)
        with torch.no_grad():
            log_opponent = self.opponent.logprob(duel.prompts, duel.left)
            scalars = self._describe(duel, win_rate, log_opponent.to(win_rate))
        scalars["loss/learning_rate"] = training.learning_rate
        batch = self._batch(duel, win_rate, log_opponent)
        for epoch in range(config.epochs):
            loss, grad_norm = training.fit(batch, self._loss, self._terms)
            if epoch == 0:
                scalars |= {"loss/policy": loss, "loss/grad_norm": grad_norm}
        training.updates += 1
        if training.updates % config.refresh_every == 0:
            self.opponent.load_state_dict(self.policy.state_dict())
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

    def _describe(self, duel: Duel, win_rate: Tensor, log_opponent: Tensor) -> dict[str, float]:
        """Returns what is known before the step: docs/agents/sppo.md has each tag's formula."""
        weight = duel.left_weight
        spread = (weight * (win_rate - (weight * win_rate).sum(1, keepdim=True)).square()).sum(1).sqrt()
        log_start = None if self._start is None else self._start.logprob(duel.prompts, duel.left)
        return {
            **policy_scalars(weight, log_opponent, log_start),
            "duel/win_rate_std": spread.mean().item(),
            "duel/win_rate_max": win_rate.amax(1).mean().item(),
        }

    def _batch(self, duel: Duel, win_rate: Tensor, log_opponent: Tensor) -> Batch:
        """Returns what the regression needs, all draws or the best and the worst with weight 1/2 each."""
        responses, weight = duel.left, duel.left_weight
        values = {"win_rate": win_rate, "log_opponent": log_opponent}
        if self.config.normaliser == "log_z":
            values["log_z"] = losses.log_partition(win_rate, self.config.eta, weight)
        if self.config.pairs == "best_worst":
            columns = losses.best_and_worst(win_rate)
            responses = [[row[k] for k in chosen] for row, chosen in zip(responses, columns.tolist(), strict=True)]
            values |= {"win_rate": win_rate.gather(1, columns), "log_opponent": log_opponent.cpu().gather(1, columns)}
            weight = torch.full_like(weight[:, :2], 0.5)
        values["weight"] = weight
        return Batch(duel.prompts, responses, {name: value.to(log_opponent) for name, value in values.items()})

    def _loss(self, part: Batch) -> Tensor:
        """Returns [b] the weighted squares of each prompt."""
        ratio = require_finite(self.policy.logprob(part.prompts, part.responses) - part["log_opponent"])
        squares = losses.sppo(ratio, part["win_rate"], self.config.eta, part.values.get("log_z"))
        return (part["weight"] * squares).sum(1)

    def _terms(self, part: Batch) -> Tensor:
        """Returns [b, K] what the loss sums the squares of, constants left out."""
        return part["weight"].sqrt() * self.policy.logprob(part.prompts, part.responses)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._training.load_state_dict(state)
