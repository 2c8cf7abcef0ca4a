"""Offline learning of an equilibrium: plays for what the duels of others have proved, and not for what they allow."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from agents.learning.learner import policy_scalars
from agents.policies.tensors import restore, tensors
from agents.preference_models.factory import predict_and_score
from preference_duel.checks import at_least, positive, require
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy

_LEAST = sys.float_info.min


@dataclass(frozen=True)
class PELHFConfig:
    """Pessimistic equilibrium learning from human feedback (Ye et al. 2024, arXiv:2402.07314), for tables.

    Learns from a file of duels, each of which counts once; where an arena asks, the start draws for both seats.
    """

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's 1/eta."""

    width: float = 0.1
    """beta >= 0, how far the preferences may lie below the model's: P(a beats b) by beta / sqrt(1 + duels of a and b),
    whose standard error is at most half of that at beta = 1. 0: planning by the model as if it were the truth."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once; a file has its own."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, tau=positive, width=at_least(0), responses=sampled)

    def build(self, *, policy: Policy, seed: int = 0) -> PELHF:
        """Builds the agent around the policy that it trains."""
        return PELHF(self, policy, seed)


class PELHF:
    """Counts duels and plays the first seat of the regularised game of lower confidence payoffs.

    Attributes:
        policy: what is learned.
        reference: what the game is regularised towards, the start.
        average: None: nothing is averaged offline.
        model: what the duels so far say.
    """

    learns_from_files = True
    one_pass = True
    average: Policy | None = None

    def __init__(self, config: PELHFConfig, policy: Policy, seed: int) -> None:
        from agents.policies.tabular import TabularPolicy
        from agents.preference_models.counts import DuelCounts

        if not isinstance(policy, TabularPolicy) or policy.exact:
            kind = "an exact one" if policy.exact else f"a {type(policy).__name__}"
            raise ValueError(f"pelhf counts single duels between listed responses: its policy is a table, not {kind}")
        self.config, self.policy, self.seed = config, policy, seed
        self.reference = policy.frozen()
        self.model = DuelCounts(policy.cells)
        self._updates = 0

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the start for both seats."""
        key = Key(self.seed, self._updates, Stream.TOKEN)
        return Proposal(self.reference.draw(prompts, self.config.responses, key)[0])

    def update(self, duel: Duel) -> dict[str, float]:
        """Adds the duels to what is known, and plans for their prompts."""
        from envs.games import regularised_saddle

        prediction = predict_and_score(self.model, duel, "loss/policy")
        self.model.add(duel)
        prompts = list(dict.fromkeys(duel.prompts))
        with torch.no_grad():
            log_ref, log_policy = self.reference.log_probs(prompts), self.policy.log_probs(prompts)
            plan = regularised_saddle(self.lower(prompts), log_ref.exp(), self.config.tau, tol=1e-5).policy
            self.policy.logits[self.policy.cells.rows_of(prompts)] = plan.clamp_min(_LEAST).log()
        self._updates += 1
        return {**policy_scalars(log_policy.exp(), log_policy, log_ref), **prediction}

    def lower(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N, N] float64 the least that P(row beats column) may be; a response is even with itself."""
        doubt = self.config.width / (1 + torch.stack([self.model.counts(prompt) for prompt in prompts])).sqrt()
        doubt.diagonal(dim1=1, dim2=2).zero_()
        return (self.model.matrix(prompts) - doubt).clamp_min(0)

    def state_dict(self) -> dict[str, Any]:
        """Returns policy, start, counts and the number of updates."""
        policies = {"policy": tensors(self.policy), "reference": tensors(self.reference)}
        return {**policies, "model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.policy, state["policy"])
        restore(self.reference, state["reference"])
        self.model.load_state_dict(state["model"])
        self._updates = int(state["updates"])
