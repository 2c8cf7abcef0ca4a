"""Kahneman-Tversky optimisation: the value of a response is its log-ratio beyond what the policy gains on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agents import losses
from agents.learning.scores import require_finite, responses_of
from agents.singles.single_agent import SingleConfig, own_samples
from preference_duel.checks import positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from agents.singles.single_agent import SingleAgent
    from preference_duel.types import Duel


@dataclass(frozen=True)
class KTOConfig(SingleConfig):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306).

    As beta goes to 0 it ends at mu(y) max(0, 2 q(y) - 1) / Z, mu the sampling policy and q the labels, whatever the
    reference.
    """

    beta: float = 0.1
    """Steepness of the value function, > 0 (the paper's 0.1)."""

    lambda_d: float = 1.0
    """Weight of liked responses, > 0 (the paper's 1; lambda_d liked / (lambda_u disliked) is to lie in [1, 4/3])."""

    lambda_u: float = 1.0
    """Weight of disliked responses, > 0 (the paper's 1)."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, lambda_d=positive, lambda_u=positive)
        super().__post_init__()

    def point(self, agent: SingleAgent, duel: Duel, label: Tensor, weight: Tensor, log_reference: Tensor) -> Tensor:
        """Returns z0 = KL(pi, reference) of each prompt if the policy is exact, else one estimate of it for all.

        Own samples tell it by their mean log-ratio; responses that were given, which are no samples of the policy, by
        that of each prompt with the responses of the one before, as in the paper.

        Raises:
            ValueError: if responses were given to one prompt alone.
        """
        del label
        responses, count = responses_of(duel), len(duel.prompts)
        with torch.no_grad():
            if not own_samples(duel):
                if count == 1:
                    raise ValueError("z0 is estimated by responses to other prompts: take a batch_size of at least 2")
                responses, weight = [responses[b - 1] for b in range(count)], weight.roll(1, 0)
                log_reference = agent.reference.logprob(duel.prompts, responses)
            log_policy = agent.policy.logprob(duel.prompts, responses)
            ratio = require_finite(log_policy - log_reference)
        if duel.exact:
            return (log_policy.exp() * ratio).sum(1)
        mean = agent.policy.batch_means((weight.to(ratio) * ratio).sum(1)).clamp(min=0)
        return mean.repeat_interleave(count // len(mean))

    def single_loss(self, ratio: Tensor, label: Tensor, point: Tensor) -> Tensor:
        """Returns what a response falls short of its greatest value."""
        return losses.kto(ratio, label, point, self.beta, self.lambda_d, self.lambda_u)
