"""Direct preference optimisation on one's own draws: classifies the winner by the policy's own log-ratios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch

from agents import losses
from agents.learning.learner import LearningAgent, policy_scalars
from agents.optim.optimiser import OptimiserConfig
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy

Loss = Literal["sigmoid", "robust", "hinge", "exo"]
Pairs = Literal["all", "best_worst"]


@dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), online or iterative.

    It fits a Bradley-Terry reward: on cyclic preferences it has no reason to reach an equilibrium.
    """

    tau: float = 0.1
    """KL coefficient around the starting policy, > 0 (the paper's beta, 0.1)."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair asked once. Ignored if the policy is exact."""

    pairs: Literal["all", "best_worst"] = "all"
    """Which pairs are learned from: all, or only the draw that won most often against the one that won least, as
    iterative DPO's recipes do."""

    loss: Literal["sigmoid", "robust", "hinge", "exo"] = "sigmoid"
    """sigmoid: the paper's. robust: unbiased under labels flipped with chance `label_smoothing`. hinge: SLiC's. exo:
    the other way round, KL(policy || labels)."""

    label_smoothing: float = 0.0
    """Chance that a label is wrong, in [0, 1/2): every label counts as 1 - e (sigmoid: cDPO); exo needs it above 0."""

    refresh_every: int = 1
    """Updates between renewals of the policy that draws, >= 1; 1 is online, many are iterative DPO."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if not self.tau > 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        for name, kind in (("loss", Loss), ("pairs", Pairs)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {getattr(self, name)!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 1/2), got {self.label_smoothing}")
        if self.loss == "exo" and self.label_smoothing == 0:
            raise ValueError("loss='exo' needs label_smoothing > 0: from a sure label it is infinitely far")
        if self.loss == "hinge" and self.label_smoothing > 0:
            raise ValueError("loss='hinge' makes no use of label_smoothing; leave it out")
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2, got {self.responses}: one draw has no other to beat")
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")

    def build(self, *, policy: Policy, seed: int = 0) -> DPO:
        """Builds the agent around the policy that it trains."""
        return DPO(self, policy, seed)

    def margin_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns the loss of margins."""
        if self.loss == "robust":
            return partial(losses.robust_dpo, beta=self.tau, label_noise=self.label_smoothing)
        if self.loss == "exo":
            return partial(losses.exo, beta=self.tau, label_smoothing=self.label_smoothing)
        if self.loss == "hinge":
            return partial(losses.hinge, beta=self.tau)
        return partial(losses.dpo, beta=self.tau, label_smoothing=self.label_smoothing)


class DPO(LearningAgent):
    """Draws from a frozen copy of the policy and makes the winners' log-ratios the larger ones.

    Attributes:
        policy: what is trained.
        opponent: the policy that samples, as it was renewed last.
        average: the mean of pi_1..pi_T, start included, where kept.
    """

    learns_from_files = True

    def __init__(self, config: DPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent, self.start = config, policy.frozen(), policy.frozen()
        copies = {"opponent": self.opponent, "start": self.start}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's pairs; they may be of any two seats, such as a file's.

        Raises:
            ValueError: if the duel has no asked pair, or the policy could not have drawn a response.
        """
        self.include_in_average(self.policy, self.config.refresh_every)
        pairs = _best_against_worst(duel) if self.config.pairs == "best_worst" else duel
        renewed = self.learner.updates % self.config.refresh_every == 0
        margin_loss = self.config.margin_loss()

        def loss(first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
            return margin_loss(first - second, prob)

        scalars, log_policy, log_start = self.step_on_pairs(pairs, self.start, loss)
        if duel.self_play:  # else the responses were given
            if not renewed:
                with torch.no_grad():
                    log_policy = self.opponent.logprob(duel.prompts, duel.left)  # [B, K] of the policy that drew
            scalars = {**policy_scalars(duel.left_weight, log_policy, log_start), **scalars}
        self.renew(self.opponent, self.config.refresh_every)
        return scalars


def _best_against_worst(duel: Duel) -> Duel:
    """Returns the duel in which only the sample with the most wins and the one with the fewest were compared."""
    if not duel.self_play or duel.exact:
        raise ValueError("pairs='best_worst' chooses among one's own draws: build the policy without exact")
    ends = losses.best_and_worst(losses.win_rate(duel.prob, leave_one_out=True))
    asked = torch.zeros_like(duel.asked)
    asked[torch.arange(len(ends)), ends[:, 0], ends[:, 1]] = True
    return dataclasses.replace(duel, asked=asked)
