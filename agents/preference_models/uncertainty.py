"""Uncertainty of a linear preference model about a duel, given the duels so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.hidden_states import hidden_at
from preference_duel.types import Completion, Duel

Responses = Sequence[Sequence[Completion]]
"""[B][K] responses."""


class LinearUncertainty:
    """The norm of a duel's features in the inverse of the covariance of the duels so far.

    For preferences <theta, phi(x, a, b)>, phi(x, a, b) = h(x, a) - h(x, b), the Gamma of Ye et al. 2024
    (arXiv:2402.07314, Section 4) is || E phi ||_{V^-1} with V = ridge I + (1/m) sum_s phi_s phi_s': a policy that could
    be exploited by a wrong theta. h is the hidden state of a frozen language model at a response's last token.

    Args:
        policy: whose layers are read; they must not change.
        ridge: lambda, > 0.
        per: m, duels that count as one.
    """

    def __init__(self, policy: HFPolicy, ridge: float, per: int) -> None:
        self.policy, self.per = policy, per
        width = policy.model.config.get_text_config().hidden_size
        self.inverse = torch.eye(width, dtype=torch.float64) / ridge

    @torch.no_grad()
    def features(self, prompts: Sequence[str], responses: Responses) -> Tensor:
        """Returns [B, K, d] float64 on the CPU."""
        policy = self.policy
        rows = [
            [*policy.tokenizer.prompt(x), *policy.tokens_of(y)]
            for x, row in zip(prompts, responses, strict=True)
            for y in row
        ]
        places = [[len(row) - 1] for row in rows]
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.autocast):
            hidden = hidden_at(policy.model.base_model, rows, places, policy.micro_tokens)
        return hidden.double().cpu().unflatten(0, (len(prompts), -1))

    def add(self, duel: Duel) -> None:
        """Counts every asked pair, in self-play each once."""
        left = self.features(duel.prompts, duel.left)
        right = left if duel.self_play else self.features(duel.prompts, duel.right)
        for b, k, l in duel.comparisons.nonzero().tolist():
            self.inverse = self._after(self.inverse, left[b, k] - right[b, l])

    def of(self, prompts: Sequence[str], left: Responses, right: Responses) -> Tensor:
        """Returns [B, K, L] Gamma of each pair, 0 of a response with itself."""
        ours, theirs = self.features(prompts, left), self.features(prompts, right)
        gap = ours[:, :, None] - theirs[:, None]  # [B, K, L, d]
        return ((gap @ self.inverse) * gap).sum(-1).clamp_min(0).sqrt()

    def most_uncertain(self, left: Tensor, candidates: Tensor) -> list[list[int]]:
        """Returns the candidate of largest Gamma against the first seat's distribution, for each sample of it.

        Gamma is convex in the second seat's distribution, so that a single response attains its maximum. Each duel is
        counted before the next one is chosen.

        Args:
            left: [B, K, d] features of the first seat's samples.
            candidates: [B, M, d] features of what the second seat may play.

        Returns:
            [B][K] columns of the candidates.
        """
        inverse, chosen = self.inverse, []
        for samples, others in zip(left, candidates, strict=True):
            chosen.append([])
            gap = samples.mean(0) - others
            for sample in samples:
                uncertainty = ((gap @ inverse) * gap).sum(1)  # [M] Gamma^2
                chosen[-1].append(int(uncertainty.argmax()))
                inverse = self._after(inverse, sample - others[chosen[-1][-1]])
        return chosen

    def _after(self, inverse: Tensor, feature: Tensor) -> Tensor:
        """Returns V^-1 after one more duel (Sherman & Morrison 1950)."""
        product = inverse @ feature  # [d]
        return inverse - torch.outer(product, product) / (self.per + feature @ product)

    def state_dict(self) -> dict[str, Any]:
        """Returns the inverse of the covariance."""
        return {"inverse": self.inverse.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.inverse = state["inverse"].clone()
