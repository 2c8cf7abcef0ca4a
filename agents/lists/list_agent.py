"""The agent of the losses of lists: samples K responses, has their pairs compared, takes one step on all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.learning.batch import Batch
from agents.learning.learning_agent import LearningAgent
from agents.learning.rewards import win_rate
from agents.learning.scores import LOG_RATIO, Score
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class ListConfig(ABC):
    """Settings that all losses of lists share; each adds its own settings, its loss and how it scores a response."""

    responses: int = 4
    """Samples per prompt, K >= 2, each pair of them compared once. Ignored if the policy is exact."""

    refresh_every: int = 1
    """Updates between renewals of the policy that samples, >= 1; 1 is online, many are iterative."""

    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, responses=at_least(2, "one sample has no other to beat"), refresh_every=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> ListAgent:
        """Builds the agent around the policy that it trains."""
        return ListAgent(self, policy, seed)

    def score(self) -> Score:
        """Returns how a response is scored: by its log-ratio to the reference."""
        return LOG_RATIO

    def labels(self, duel: Duel) -> Mapping[str, Tensor]:
        """Returns name -> [B, ...] what the loss reads of a duel: as "label" the win rates in the list, [B, K]."""
        return {"label": win_rate(duel)}

    @abstractmethod
    def list_loss(self, score: Tensor, counted: Tensor, part: Batch) -> Tensor:
        """Returns [b] the loss of each list.

        Args:
            score: [b, K].
            counted: [b, K] bool, the responses of the list.
            part: has `labels`, and the responses' tokens as "length" if scores are per token.
        """


class ListAgent(LearningAgent):
    """Learns from lists of its own samples, or of a file.

    Of an exact policy the list is the whole distribution, each response once.

    Attributes:
        policy: what is trained.
        opponent: the policy that samples, as it was renewed last.
        reference: the start, to which log-ratios are taken; None: the loss takes none.
        average: the mean of pi_1..pi_T, start included, if kept.
    """

    learns_from_files = True
    learns_from_lists = True

    def __init__(self, config: ListConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        self.reference = policy.snapshot() if config.score().to_reference else None
        copies = {"opponent": self.opponent, "reference": self.reference}
        super().__init__(policy, config.optimiser, seed, average=config.average, **copies)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's lists.

        Raises:
            ValueError: if the seats hold different responses, or the policy could not have sampled one.
        """
        config, renewed = self.config, self.learner.updates % self.config.refresh_every == 0
        values = {**config.labels(duel), "counted": duel.left_weight > 0}
        self.include_in_average(self.policy, config.refresh_every)

        def loss(score: Tensor, part: Batch) -> Tensor:
            return config.list_loss(score, part["counted"] > 0, part)

        step = self.step_on_scores(duel, self.reference, loss, values, score=config.score())
        scalars = step.scalars
        if not duel.given:
            sampled = step if renewed else step.of_sampler(self.opponent, duel)
            scalars = sampled.policy_scalars(duel) | scalars
        self.renew(self.opponent, config.refresh_every)
        return scalars
