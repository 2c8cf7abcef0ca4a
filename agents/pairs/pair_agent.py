"""The agent of the losses of pairs: samples responses, has their pairs compared, takes one step on the loss."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.scores import LOG_RATIO, Score, require_finite, responses_of
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, one_of, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.scores import PairLoss
    from preference_duel.protocols import Agent, Policy

Pairs = Literal["all", "best_worst"]
_TIE = 1e-9
"""Difference of win rates below which they are equal but for rounding."""


@dataclass(frozen=True)
class PairConfig(ABC):
    """Settings that all losses of pairs share; each adds its own settings, its loss and how it scores a response."""

    responses: int = 4
    """Samples per prompt, K >= 2, each pair of them compared once. Ignored if the policy is exact."""

    pairs: Literal["all", "best_worst"] = "all"
    """Which pairs are learned from: all, or only the sample that won most often against the one that won least, as
    iterative recipes do; a prompt whose samples all won equally often is left out."""

    refresh_every: int = 1
    """Updates between renewals of the policy that samples, >= 1; 1 is online, many are iterative."""

    renew_reference_every: int | None = None
    """Updates between renewals of the reference by the current policy, >= 1, as in the stages of sDPO
    (arXiv:2403.19270); None: it stays the start."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled, renewals = at_least(2, "one sample has no other to beat"), at_least(1)
        require(self, responses=sampled, pairs=one_of(Pairs), refresh_every=renewals)
        require(self, renew_reference_every=renewals.or_none())
        if self.renew_reference_every is not None and not self.score().to_reference:
            raise ValueError("there is no reference to renew: this loss takes none; leave renew_reference_every out")

    def build(self, *, policy: Policy, seed: int = 0) -> Agent:
        """Builds the agent around the policy that it trains."""
        return PairAgent(self, policy, seed)

    def score(self) -> Score:
        """Returns how a response is scored: by its log-ratio to the reference."""
        return LOG_RATIO

    @abstractmethod
    def pair_loss(self, first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
        """Returns [b, K, L] the loss of the scores [b, K, 1] and [b, 1, L] and of P(first wins) [b, K, L]."""


class PairAgent(LearningAgent):
    """Learns from pairs of its own samples, or of a file.

    Attributes:
        policy: what is trained.
        opponent: the policy that samples, as it was renewed last.
        reference: what log-ratios are taken to; None: the loss takes none.
        average: the mean of pi_1..pi_T, start included, if kept.
    """

    learns_from_files = True

    def __init__(self, config: PairConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        self.reference = policy.snapshot() if config.score().to_reference else None
        copies = {"opponent": self.opponent, "reference": self.reference}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)
        self.learner.batchable &= config.pairs == "all"  # a prompt that is left out gives the others more weight

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's pairs; they may be of any two seats, such as a file's.

        Raises:
            ValueError: if the duel has no asked pair, or the policy could not have sampled a response.
        """
        duel = self.compared(duel)
        return self.learn(duel, self.config.pair_loss) if duel.prompts else self.pass_over()

    def compared(self, duel: Duel) -> Duel:
        """Returns the duel in which only those pairs were asked that are learned from, of no prompt if all tie."""
        return _best_against_worst(duel) if self.config.pairs == "best_worst" else duel

    def log_ratio(self, duel: Duel) -> Tensor:
        """Returns log pi - log reference, [B, K] (self-play) or [B, K + L] nats, of the duel's responses.

        Raises:
            ValueError: if the policy could not have sampled a response.
        """
        assert self.reference is not None
        responses = responses_of(duel)
        log_reference = self.reference.logprob(duel.prompts, responses)
        return require_finite(self.policy.logprob(duel.prompts, responses) - log_reference)

    def learn(self, duel: Duel, loss: PairLoss, weight: Tensor | None = None) -> dict[str, float]:
        """Takes one step on a loss of the duel's pairs, and renews what is due.

        Args:
            duel: of any two seats.
            loss: of scores and probabilities.
            weight: [B, K, L] of the pairs; None: all count alike.
        """
        config = self.config
        self.include_in_average(self.policy, config.refresh_every)
        renewed = self.learner.updates % config.refresh_every == 0
        step = self.step_on_pairs(duel, self.reference, loss, score=config.score(), weight=weight)
        scalars = step.scalars
        if duel.self_play:  # else the responses were given
            sampled = step if renewed else step.of_sampler(self.opponent, duel)
            scalars = sampled.policy_scalars(duel) | scalars
        self._renew_due()
        return scalars

    def pass_over(self) -> dict[str, float]:
        """Counts an update that has nothing to learn from, without a step; returns no scalars."""
        self.include_in_average(self.policy, self.config.refresh_every)
        self.learner.updates += 1
        self._renew_due()
        return {}

    def _renew_due(self) -> None:
        config = self.config
        self.renew(self.opponent, config.refresh_every)
        if self.reference is not None and config.renew_reference_every is not None:
            self.renew(self.reference, config.renew_reference_every)


def _best_against_worst(duel: Duel) -> Duel:
    """Returns the duel in which only the sample with the most wins and the one with the fewest were compared.

    If that pair was not asked, or is unread, the asked pair whose win rates differ most takes its place. A prompt whose
    two won equally often is left out, as in self-rewarding (Yuan et al. 2024, arXiv:2401.10020).
    """
    if not duel.self_play or duel.exact:
        raise ValueError("pairs='best_worst' chooses among one's own draws: build the policy without exact")
    win_rate = losses.win_rate(duel.prob, leave_one_out=True, known=duel.known)  # [B, K]
    ends = losses.best_and_worst(win_rate, duel.left_weight > 0)  # [B, 2]
    rows = torch.arange(len(ends))
    lead = (win_rate[:, :, None] - win_rate[:, None, :]).masked_fill(~duel.asked, -torch.inf)  # [B, K, K]
    widest = lead.flatten(1).argmax(1)
    widest = torch.stack([widest // lead.shape[2], widest % lead.shape[2]], 1)  # [B, 2]
    ends = torch.where(duel.asked[rows, ends[:, 0], ends[:, 1]][:, None], ends, widest)
    asked = torch.zeros_like(duel.asked)
    asked[rows, ends[:, 0], ends[:, 1]] = True
    tied = (win_rate[rows, ends[:, 0]] - win_rate[rows, ends[:, 1]]).abs() < _TIE
    chosen = dataclasses.replace(duel, asked=asked)
    return dataclasses.replace(chosen.without(asked & tied[:, None, None]), unread=duel.unread)
