"""Distributional dispreference optimisation: leads what is disliked by the mean of one's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.scalars import policy_scalars
from agents.learning.scores import require_finite, responses_of
from agents.singles.single_agent import SingleAgent, SingleConfig, labels
from preference_duel.checks import positive, require
from preference_duel.keyed_random import Stream
from preference_duel.types import Duel

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class D2OConfig(SingleConfig):
    """Distributional dispreference optimisation (Duan et al. 2024, arXiv:2403.03419).

    At alpha = beta it ends at ref exp(logit(S / (1 - q)) / beta) / Z, q the labels, S such that the logits' mean is 0.
    """

    learns_from_dislikes: ClassVar[bool] = True

    beta: float = 0.1
    """Weight of the mean log-ratio of own samples, > 0."""

    alpha: float = 0.1
    """Weight of the log-ratio of a disliked response, > 0."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, alpha=positive)
        super().__post_init__()

    def build(self, *, policy: Policy, seed: int = 0) -> D2O:
        """Builds the agent around the policy that it trains."""
        return D2O(self, policy, seed)

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns the loss of what is disliked, given the mean log-ratio of own samples."""
        return (1 - label) * losses.d2o(ratio, point, self.beta, self.alpha)


class D2O(SingleAgent):
    """Samples once more for every duel, as anchors that disliked responses are led by."""

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's responses, which may all be disliked.

        Raises:
            ValueError: if nothing was asked about a prompt, or the policy could not have sampled a response.
        """
        label, weight = labels(duel)
        prompts, judged, every = duel.prompts, responses_of(duel), self.config.refresh_every
        self.include_in_average(self.policy, every)
        with torch.no_grad():
            own, own_weight = self.opponent.draw(prompts, self.config.responses, self.key(Stream.OPPONENT))
            responses = [[*row, *samples] for row, samples in zip(judged, own, strict=True)]
            log_reference = self.reference.logprob(prompts, responses)  # [B, M + K]
            log_sampler = self.opponent.logprob(prompts, own)
        count = label.shape[1]

        def loss(part: Batch) -> Tensor:
            ratio = require_finite(self.policy.logprob(part.prompts, part.responses) - part["reference"])
            mean = (part["own_weight"] * ratio[:, count:]).sum(1, keepdim=True)
            return (part["weight"] * self.config.single_loss(ratio[:, :count], part["label"], mean)).sum(1)

        values = {"reference": log_reference, "label": label, "weight": weight, "own_weight": own_weight}
        scalars = policy_scalars(own_weight, log_sampler, log_reference[:, count:], own)
        scalars |= self.learner.step(Batch(prompts, responses, values).to(log_reference), loss)
        self.renew(self.opponent, every)
        return scalars
