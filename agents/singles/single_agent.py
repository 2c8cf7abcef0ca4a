"""The agent of the losses of single responses: samples, reads how well each was liked, takes one step on the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.scores import Scale, responses_of
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from agents.learning.learner import ScoredStep
    from preference_duel.protocols import Agent, Policy


@dataclass(frozen=True)
class SingleConfig(ABC):
    """Settings that all losses of single responses share; each adds its own settings and its loss."""

    around_sampler: ClassVar[bool] = False
    """Whether log-ratios are taken to the policy that samples, not to the start."""

    learns_from_dislikes: ClassVar[bool] = False
    """Whether disliked responses alone teach something."""

    responses: int = 4
    """Samples per prompt, K >= 2. Ignored if the policy is exact."""

    refresh_every: int = 1
    """Updates between renewals of the policy that samples, >= 1; 1 is online, many are iterative."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, responses=sampled, refresh_every=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> Agent:
        """Builds the agent around the policy that it trains."""
        return SingleAgent(self, policy, seed)

    def point(
        self, agent: SingleAgent, duel: Duel, label: Tensor, weight: Tensor, log_reference: Tensor
    ) -> Tensor | None:
        """Returns [B] what the responses of each prompt are measured against; None: the loss needs no such point.

        Args:
            agent: what learns.
            duel: of any two seats.
            label: [B, K] of `responses_of(duel)`, see `labels`.
            weight: [B, K] of the responses.
            log_reference: [B, K] nats.
        """
        del agent, duel, label, weight, log_reference
        return None

    @abstractmethod
    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns [b, K] the loss of log-ratios and labels [b, K] and of the prompts' points [b, 1], 0 if none."""


class SingleAgent(LearningAgent):
    """Learns from single responses: its own samples, or those of a file.

    Attributes:
        policy: what is trained.
        opponent: the policy that samples, as it was renewed last.
        reference: what log-ratios are taken to.
        average: the mean of pi_1..pi_T, start included, if kept.
    """

    learns_from_files = True
    learns_from_thumbs = True
    learns_from_lists = True

    def __init__(self, config: SingleConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        start = None if config.around_sampler else policy.snapshot()
        self.reference = self.opponent if start is None else start
        copies = {"opponent": self.opponent, "reference": start}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)
        self.learns_from_dislikes = config.learns_from_dislikes

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's responses, of any two seats, or of the left one if the right is not shown.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        (label, weight), log_reference = labels(duel), self.log_reference(duel)
        point = self.config.point(self, duel, label, weight, log_reference)
        return self.learn(duel, label, weight, point, log_reference).scalars

    def log_reference(self, duel: Duel) -> Tensor:
        """Returns [B, K] log reference of `responses_of(duel)`, nats."""
        with torch.no_grad():
            return self.reference.logprob(duel.prompts, responses_of(duel))

    def learn(
        self, duel: Duel, label: Tensor, weight: Tensor, point: Tensor | None, log_reference: Tensor
    ) -> ScoredStep:
        """Takes one step, and renews what is due.

        Args:
            duel: of any two seats.
            label: [B, K] of `responses_of(duel)`.
            weight: [B, K] of the responses.
            point: [B] what the responses of each prompt are measured against; None: 0.
            log_reference: [B, K] nats.
        """
        config = self.config
        self.include_in_average(self.policy, config.refresh_every)
        renewed = self.learner.updates % config.refresh_every == 0
        values = {"label": label, "weight": weight}
        values["point"] = (label.new_zeros(len(label)) if point is None else point)[:, None]

        def loss(ratio: Tensor, part: Batch) -> Tensor:
            return (part["weight"] * config.single_loss(ratio, part["label"], part["point"])).sum(1)

        step = self.learner.step_on_scores(duel, Scale(log_reference), loss, values)._replace(
            log_reference=log_reference
        )
        scalars = step.scalars if point is None else {"loss/point": point.mean().item(), **step.scalars}
        if own_samples(duel):
            if config.around_sampler:  # what samples is the reference, from which its KL is 0
                sampled = step._replace(log_policy=log_reference, log_reference=None)
            else:
                sampled = step if renewed else step.of_sampler(self.opponent, duel)
            scalars = sampled.policy_scalars(duel) | scalars
        self.renew(self.opponent, config.refresh_every)
        return step._replace(scalars=scalars)


def own_samples(duel: Duel) -> bool:
    """Returns whether a duel's responses are samples of the policy that learns, each in both seats or judged alone."""
    return not duel.given and (duel.self_play or duel.feedback == "thumb")


def likes(duel: Duel) -> Tensor:
    """Returns [B, K] how much each of `responses_of(duel)` is to be imitated, rows of sum 1; 0 if none was liked.

    Raises:
        ValueError: if nothing was asked about a prompt.
    """
    label, weight = labels(duel)
    return weight * label / (weight * label).sum(1, keepdim=True).clamp(min=1e-12)


def labels(duel: Duel) -> tuple[Tensor, Tensor]:
    """Returns how well each response was liked: the mean verdict over its opponents, a draw's tie with itself left out.

    Returns:
        [B, K] labels in [0, 1] and weights, rows sum to 1 and 0 where nothing was asked; of two seats [B, K + L], the
        right one's labels from its own side.

    Raises:
        ValueError: if nothing was asked about a prompt.
    """
    known, without_ties = None if duel.exact else duel.known, duel.self_play and not duel.exact
    label = losses.win_rate(duel.prob, duel.right_weight, without_ties, known)
    weight = duel.left_weight * (duel.asked.any(2) | duel.exact)
    if not duel.self_play and duel.feedback != "thumb":
        right = losses.win_rate(1 - duel.prob.mT, duel.left_weight, False, None if known is None else known.mT)
        right_weight = duel.right_weight * (duel.asked.any(1) | duel.exact)
        label, weight = torch.cat([label, right], 1), torch.cat([weight, right_weight], 1)
    total = weight.sum(1, keepdim=True)
    if not (total > 0).all():
        raise ValueError("some prompt has no judged response; draw at least 2 responses, or ask more of them")
    return label, weight / total
