"""Entropy, KL and the sampler's gap of a policy, and its samples' win rates, as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.types import Completion


def policy_scalars(
    weight: Tensor,
    log_policy: Tensor,
    log_start: Tensor | None,
    responses: Sequence[Sequence[Completion]] = (),
) -> dict[str, float]:
    """Returns the entropy of the sampling policy and its KL from the start, by tag: exact if weights are probabilities.

    Beside them, if samples have log-probabilities of their own, how far those of the policy that learns are from them.

    Args:
        weight: [B, K] of the responses, rows sum to 1.
        log_policy: [B, K] nats.
        log_start: [B, K] nats; None: no KL.
        responses: [B][K] samples of this policy.
    """
    log_policy = log_policy.to(weight)
    scalars = {"policy/entropy": -(weight * log_policy).sum(1).mean().item()}
    if log_start is not None:
        scalars["policy/kl"] = (weight * (log_policy - log_start.to(weight))).sum(1).mean().item()
    sampled = [[y.token_logprob for y in row] for row in responses]
    if sampled and all(nats is not None for row in sampled for nats in row):
        gap = (log_policy - torch.tensor([[sum(nats or ()) for nats in row] for row in sampled]).to(weight)).abs()
        scalars |= {"policy/sampler_gap": gap.mean().item(), "policy/sampler_gap_max": gap.max().item()}
    return scalars


def win_rate_scalars(weight: Tensor, win_rate: Tensor) -> dict[str, float]:
    """Returns the spread and the largest of a prompt's win rates [B, K], weighted by [B, K]; means over prompts."""
    std = (weight * (win_rate - (weight * win_rate).sum(1, keepdim=True)).square()).sum(1).sqrt()  # [B]
    return {"duel/win_rate_std": std.mean().item(), "duel/win_rate_max": win_rate.amax(1).mean().item()}
