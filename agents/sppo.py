"""Self-play preference optimisation: regresses log-ratios onto the exponential-weights update of a game."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents import losses
from agents.base import Policy
from agents.optimisers import Optimiser, OptimiserName, require_settings
from agents.state import restore, tensors
from envs.keyed import Key, Stream
from envs.types import Completion, Duel, Proposal

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

    micro_batch: int | None = None
    """Prompts per backward pass, >= 1, where a whole duel does not fit into memory; it changes no gradient."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T, which is what converges on cyclic games; costs one copy of the weights."""

    log_kl: bool = True
    """Log KL(pi_t || starting policy); costs one copy of the weights and one forward pass per update."""

    optimiser: OptimiserName = "rmsprop"
    """rmsprop (the paper's), adamw, sgd, or lbfgs: the inner problem of each duel solved to high accuracy."""

    learning_rate: float | None = None
    """Step size of the optimiser, > 0; None: the policy's own, 2e-4 of networks and 0.03 of tables (tuned on the task
    chat and on cyclic games). The paper's 7B models take 5e-7."""

    momentum: float = 0.0
    """Decay of the mean gradient, in [0, 1): momentum of rmsprop and sgd, beta1 of adamw."""

    smoothing: float = 0.99
    """Decay of the mean squared gradient, in [0, 1): alpha of rmsprop, beta2 of adamw."""

    weight_decay: float = 0.0
    """Pull of the weights towards 0, >= 0: decoupled in adamw, added to the gradient in rmsprop and sgd."""

    warmup: int = 10
    """Optimiser steps over which the learning rate rises linearly, >= 0: the first steps of rmsprop are up to ten times
    too long. The paper takes a tenth of all."""

    max_grad_norm: float | None = 1.0
    """Gradients of a larger norm are scaled down to it, > 0; None: never."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range or would be ignored."""
        require_settings(self)
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
        for name in ("refresh_every", "epochs", "micro_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

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

    def __init__(self, config: SPPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.opponent = policy.frozen()
        self.average = policy.frozen() if config.average else None
        self._start = policy.frozen() if config.log_kl else None
        self._optimiser = Optimiser(policy.parameters(), config, policy.learning_rate)
        self._updates = 0

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of pi_t for both seats, or its whole law where it is exact."""
        key = Key(self.seed, self._updates, Stream.TOKEN)
        responses, weight = self.opponent.draw(prompts, self.config.responses, key)
        return Proposal(responses, left_weight=weight if self.opponent.exact else None)

    def update(self, duel: Duel) -> dict[str, float]:
        """Regresses the policy onto the duel's targets, and renews pi_t when its time has come.

        Raises:
            ValueError: if the duel has too few draws, outcomes where the projection needs probabilities, or a
                response that the policy could not have drawn.
        """
        config = self.config
        if self.average is not None and self._updates % config.refresh_every == 0:
            self.average.blend(self.opponent, 1 / (self._updates // config.refresh_every + 1))
        win_rate = self._win_rate(duel)
        with torch.no_grad():
            log_opponent = self.opponent.logprob(duel.prompts, duel.left)
            scalars = self._describe(duel, win_rate, log_opponent.to(win_rate))
        batch = _Batch(
            duel.prompts,
            duel.left,
            log_opponent,
            win_rate.to(log_opponent),
            duel.left_weight.to(log_opponent),
            losses.log_partition(win_rate, config.eta, duel.left_weight).to(log_opponent)
            if config.normaliser == "log_z"
            else None,
        )
        if config.pairs == "best_worst":
            batch = batch.best_and_worst()
        for epoch in range(config.epochs):
            loss, grad_norm = self._optimiser.step(lambda: self._accumulate(batch), lambda: self._terms(batch))
            if epoch == 0:
                scalars |= {"loss/sppo": loss, "loss/grad_norm": grad_norm}
        self._updates += 1
        if self._updates % config.refresh_every == 0:
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
        scalars = {
            "policy/entropy": -(weight * log_opponent).sum(1).mean().item(),
            "duel/win_rate_std": spread.mean().item(),
            "duel/win_rate_max": win_rate.amax(1).mean().item(),
        }
        if self._start is not None:
            log_start = self._start.logprob(duel.prompts, duel.left).to(log_opponent)
            scalars["policy/kl"] = (weight * (log_opponent - log_start)).sum(1).mean().item()
        return scalars

    def _accumulate(self, batch: _Batch) -> Tensor:
        """Returns the mean loss over prompts and adds its gradient, `micro_batch` prompts at a time."""
        total = torch.zeros(())
        for part in batch.split(self.config.micro_batch):
            ratio = self.policy.logprob(part.prompts, part.responses) - part.log_opponent
            if not ratio.isfinite().all():
                raise ValueError(
                    "log pi - log pi_t is not finite: the policy gives probability 0 to something that pi_t drew, "
                    "or its weights are not finite; train with top_p=1 and top_k=0, or lower learning_rate"
                )
            squares = losses.sppo(ratio, part.win_rate, self.config.eta, part.log_z)
            loss = (part.weight * squares).sum() / len(batch.prompts)
            loss.backward()
            total = total + loss.detach().cpu()
        return total

    def _terms(self, batch: _Batch) -> Iterator[Tensor]:
        """Yields what the loss sums the squares of, constants left out."""
        for part in batch.split(self.config.micro_batch):
            yield (part.weight / len(batch.prompts)).sqrt() * self.policy.logprob(part.prompts, part.responses)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        state = {name: tensors(policy) for name, policy in self._policies().items()}
        return {**state, "optimiser": self._optimiser.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`.

        Raises:
            ValueError: if the state is of another policy or was kept under other settings.
        """
        policies = self._policies()
        if state.keys() != policies.keys() | {"optimiser", "updates"}:
            raise ValueError(
                f"the saved state holds {sorted(state)}, this agent keeps {sorted(policies)}; "
                f"build it with the settings of the run that saved it (average, log_kl)"
            )
        for name, policy in policies.items():
            restore(policy, state[name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._updates = int(state["updates"])

    def _policies(self) -> dict[str, Policy]:
        kept = {"policy": self.policy, "opponent": self.opponent, "average": self.average, "start": self._start}
        return {name: policy for name, policy in kept.items() if policy is not None}


@dataclass(frozen=True)
class _Batch:
    """What the regression of one duel needs: rows of prompts, columns of responses."""

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    log_opponent: Tensor
    win_rate: Tensor
    weight: Tensor
    log_z: Tensor | None

    def best_and_worst(self) -> _Batch:
        """Returns the best and the worst response of each prompt, weight 1/2 each."""
        columns = losses.best_and_worst(self.win_rate)
        return replace(
            self,
            responses=[[row[k] for k in chosen] for row, chosen in zip(self.responses, columns.tolist(), strict=True)],
            log_opponent=self.log_opponent.gather(1, columns),
            win_rate=self.win_rate.gather(1, columns),
            weight=torch.full_like(self.weight[:, :2], 0.5),
        )

    def split(self, size: int | None) -> Iterator[_Batch]:
        """Yields parts of `size` prompts; None: all at once."""
        if size is None or size >= len(self.prompts):
            yield self
            return
        for start in range(0, len(self.prompts), size):
            rows = slice(start, start + size)
            log_z = None if self.log_z is None else self.log_z[rows]
            yield _Batch(
                self.prompts[rows], self.responses[rows], self.log_opponent[rows], self.win_rate[rows],
                self.weight[rows], log_z,
            )  # fmt: skip
