"""Nash mirror descent: plays against a mixture of itself and the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch

from agents import losses
from agents.learning.learner import Batch, LearningAgent, policy_scalars, token_logprob
from agents.nash.inpo import mirror_step
from agents.optim.optimiser import OptimiserConfig
from preference_duel.keyed_random import Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.learner import Learner
    from preference_duel.protocols import Policy

Form = Literal["gradient", "mirror"]


@dataclass(frozen=True)
class NashMDConfig:
    """Nash mirror descent (Munos et al. 2023, arXiv:2312.00886)."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's summarisation takes 0.008."""

    mixture: float = 0.125
    """Share b of the start in the opponent pi^(1-b) ref^b, in (0, 1]; the paper takes 0.125. In the mirror form it is
    also the step, b = eta tau."""

    form: Literal["gradient", "mirror"] = "gradient"
    """gradient: the paper's practice, a policy gradient on P(y beats y') - 1/2 - tau log pi/ref with y of the policy
    and y' of the opponent. mirror: the paper's algorithm, a regression onto the opponent's distribution times
    exp(eta P(. beats the opponent)), both seats the opponent's."""

    anneal: bool = False
    """In the mirror form: the share is 2/(t + 2) in update t = 1, 2, ... instead of `mixture`. A constant one ends a
    little beside the equilibrium."""

    responses: int = 4
    """Draws per prompt, K >= 1, of each seat; each left one meets one right one. Mirror form: K >= 2 draws of the
    opponent, each pair asked once. Ignored if the policy is exact."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if not 0 < self.mixture <= 1:
            raise ValueError(f"mixture must lie in (0, 1], got {self.mixture}")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {self.form!r}")
        if self.anneal and self.form == "gradient":
            raise ValueError("anneal belongs to form='mirror'; leave it out")
        if self.responses < (2 if self.form == "mirror" else 1):
            raise ValueError(f"responses must be at least {1 + (self.form == 'mirror')}, got {self.responses}")

    def build(self, *, policy: Policy, seed: int = 0) -> NashMD:
        """Builds the agent around the policy that it trains."""
        return NashMD(self, policy, seed)


class NashMD(LearningAgent):
    """Moves the policy to beat the opponent pi^(1-b) ref^b.

    Attributes:
        policy: what is trained.
        reference: what the game is regularised towards, the start.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    def __init__(self, config: NashMDConfig, policy: Policy, seed: int) -> None:
        self.config, self.reference = config, policy.snapshot()
        self.own_draws = config.form == "gradient"
        super().__init__(policy, config.optimiser, seed, average=config.average, reference=self.reference)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the policy against K of the opponent, or of the opponent alone in the mirror form."""
        count = self.config.responses
        opponent = self.mixed(self.reference, self._share)
        with torch.no_grad():
            right, right_weight = opponent.draw(prompts, count, self.key(Stream.OPPONENT))
            if self.config.form == "mirror":
                return Proposal(right, left_weight=right_weight if opponent.exact else None)
            left, left_weight = self.policy.draw(prompts, count, self.key())
        if self.policy.exact:
            return Proposal(left, right, left_weight, right_weight)
        return Proposal(left, right, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step.

        Raises:
            ValueError: if the duel's seats are not those of the form, or the policy could not have drawn a response.
        """
        self.include_in_average(self.policy)
        if self.config.form == "mirror":
            return self._mirror(duel)
        return gradient_step(self.learner, self.reference, duel, self.config.tau)

    def _mirror(self, duel: Duel) -> dict[str, float]:
        """Regresses onto pi^(1-b) ref^b exp(eta P(. beats the opponent)) with b = eta tau."""
        with torch.no_grad():
            log_reference = self.reference.logprob(duel.prompts, duel.left)  # [B, K]
            log_policy = self.policy.logprob(duel.prompts, duel.left)  # [B, K]
        eta = self._share / self.config.tau
        return mirror_step(self.learner, duel, log_policy, log_reference, eta, self.config.tau)

    @property
    def _share(self) -> float:
        """The start's share in the opponent."""
        return 2 / (self.learner.updates + 3) if self.config.anneal else self.config.mixture


def gradient_step(learner: Learner, reference: Policy, duel: Duel, tau: float) -> dict[str, float]:
    """Takes one optimiser step up E[P(y beats y') - 1/2 - tau log pi/ref (y)], y the policy's and y' an opponent's.

    Args:
        learner: of the policy.
        reference: what the game is regularised towards.
        duel: samples of the policy on the left, of the opponent on the right.
        tau: KL coefficient.

    Returns:
        The policy's scalars and the step's by tag, see `Learner.step`.

    Raises:
        ValueError: if the duel is self-play, or the policy could not have drawn a response.
    """
    if duel.self_play:
        raise ValueError("the policy plays against another opponent than itself, and this duel is self-play")
    policy = learner.policy
    with torch.no_grad():
        log_policy, mask = token_logprob(policy, duel.prompts, duel.left)  # [B, K, T]
        log_reference, _ = token_logprob(reference, duel.prompts, duel.left)  # [B, K, T]
        whole_policy = policy.logprob(duel.prompts, duel.left)  # [B, K]
        whole_reference = reference.logprob(duel.prompts, duel.left)  # [B, K]
    weight = duel.right_weight[:, None, :] * duel.asked  # [B, K, L]
    total = weight.sum(2)  # [B, K], 0 of a draw whose pairs are all unread, which weighs nothing below
    reward = (weight * (duel.prob - 0.5)).sum(2) / torch.where(total > 0, total, 1)  # [B, K]
    advantage = losses.reward_to_go(reward.to(log_policy), log_policy - log_reference, mask, tau)  # [B, K, T]

    def loss(part: Batch) -> Tensor:
        log_policy, mask = token_logprob(policy, part.prompts, part.responses)  # [b, K, t]
        advantage = part["advantage"][:, :, : log_policy.shape[2]]
        return (part["weight"] * losses.policy_gradient(log_policy, advantage, mask)).sum(1)  # [b]

    values = {"advantage": advantage, "weight": duel.left_weight.to(log_policy)}
    scalars = learner.step(Batch(duel.prompts, duel.left, values), loss)
    return {**policy_scalars(duel.left_weight, whole_policy, whole_reference, duel.left), **scalars}
