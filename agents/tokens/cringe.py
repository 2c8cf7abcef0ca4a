"""CRINGE: likelihood of what is liked, and each token of what is not against the model's own choice in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from agents import losses
from agents.learning.learning_agent import LearningAgent
from agents.learning.scores import Score
from agents.optim.optimiser import OptimiserConfig
from agents.singles.single_agent import labels, own_samples
from preference_duel.checks import at_least, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class CRINGEConfig:
    """Contrastive iterative negative generation (Adolphs et al. 2022, arXiv:2211.05826)."""

    weight: float = 1.0
    """Weight of the contrast of disliked responses, >= 0 (the released code's 1); 0 learns from liked ones alone."""
    top_k: int = 1
    """Likeliest other tokens that a disliked token is contrasted with, >= 1 (the released code's 1)."""
    responses: int = 4
    """Samples per prompt, K >= 2. Ignored if the policy is exact."""
    refresh_every: int = 1
    """Updates between renewals of the policy that samples, >= 1; the paper's iterations are passes over a set."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, weight=at_least(0), top_k=at_least(1), responses=sampled, refresh_every=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> CRINGE:
        """Builds the agent around the policy that it trains."""
        return CRINGE(self, policy, seed)


class CRINGE(LearningAgent):
    """Learns from single responses, its own samples by a frozen copy (`opponent`) or those of a file."""

    learns_from_files = True
    learns_from_thumbs = True
    learns_from_lists = True
    learns_from_likes = True
    learns_from_dislikes = True

    def __init__(self, config: CRINGEConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, opponent=self.opponent)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step on the duel's responses; raises ValueError if nothing was asked about a prompt."""
        config, (label, weight) = self.config, labels(duel)  # [B, K]
        self.include_in_average(self.policy, config.refresh_every)
        renewed = self.learner.updates % config.refresh_every == 0
        score = Score(to_reference=False, term=partial(contrasts, config.top_k))
        values = {"label": label, "weight": weight}

        def loss(scores: Tensor, part: Batch) -> Tensor:
            return (part["weight"] * losses.cringe(scores, part["label"], config.weight)).sum(1)

        step = self.step_on_scores(duel, None, loss, values, score=score)
        sampled = step if renewed or not own_samples(duel) else step.of_sampler(self.opponent, duel)
        self.renew(self.opponent, config.refresh_every)
        return (sampled.policy_scalars(duel) if own_samples(duel) else {}) | step.scalars


def contrasts(top_k: int, logits: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
    """Returns [M] `losses.contrast`, as a term of tokens."""
    del reference
    return losses.contrast(logits, tokens, top_k)
