"""Losses of tokens: terms of the logits before each token, and losses of responses that have such a term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def token_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Returns KL(ref || pi) of the next token: TDPO's divergence (Zeng et al. 2024, arXiv:2404.11999).

    Args:
        logits: [M, V] of pi; -inf where no token can stand.
        reference: [M, V] of ref, likewise.

    Returns:
        [M] nats; infinite where pi leaves out what ref allows.

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape != reference.shape:
        raise ValueError(f"logits must have one shape, got {tuple(logits.shape)} and {tuple(reference.shape)}")
    log_ref = reference.log_softmax(-1)
    gap = (log_ref - logits.log_softmax(-1)).masked_fill(log_ref == -torch.inf, 0)
    return (log_ref.exp() * gap).sum(-1)


def contrast(logits: Tensor, tokens: Tensor, k: int = 1) -> Tensor:
    """Returns softplus(s_t - s+): how far a disliked token t is from losing against the model's own choice (CRINGE).

    Adolphs et al. 2022, arXiv:2211.05826. The paper draws the other token from the softmax of the k likeliest ones
    without t; here it is the mean over that draw, which is the same at k = 1 and has less variance above. No gradient
    flows through the chances of the draw, as in the released code.

    Args:
        logits: [M, V]; -inf where no token can stand.
        tokens: [M] what was written.
        k: number of other tokens, at least 1.

    Returns:
        [M] >= 0; 0 where no other token can stand.

    Raises:
        ValueError: if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    own = logits.gather(1, tokens[:, None])  # [M, 1]
    others = logits.scatter(1, tokens[:, None], -torch.inf).topk(min(k, logits.shape[1]), -1).values  # [M, k]
    there = others > -torch.inf
    chance = torch.softmax(others.detach(), -1).masked_fill(~there, 0)
    return (chance * torch.nn.functional.softplus(own - others.masked_fill(~there, 0))).sum(-1)


def tdpo(first: Tensor, second: Tensor, prob: Tensor, beta: float, alpha: float, stop_winner: bool) -> Tensor:
    """Returns -logsig(b (r_w - r_l - alpha (K_l - K_w))): token-level DPO.

    Zeng et al. 2024, arXiv:2404.11999: TDPO1 at alpha 1 with every gradient, TDPO2 if K_w gets none.

    Args:
        first: [..., 2] of the first response, log-ratio and sum over its tokens of KL(ref || pi), nats.
        second: [..., 2] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.
        alpha: weight of the difference of divergences; 0 is DPO.
        stop_winner: whether the winner's divergence gets no gradient.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        (r_w, k_w), (r_l, k_l) = winner.unbind(-1), loser.unbind(-1)
        k_w = k_w.detach() if stop_winner else k_w
        return -torch.nn.functional.logsigmoid(beta * (r_w - r_l - alpha * (k_l - k_w)))

    return _over_outcomes(loss, first, second, prob)


def cringe(score: Tensor, label: Tensor, weight: float) -> Tensor:
    """Returns the negative log-likelihood of what is liked and the contrast of what is not.

    Adolphs et al. 2022, arXiv:2211.05826; sums over tokens, so that each counts alike, as in the released code.

    Args:
        score: [..., 2] log-probability and sum over tokens of `contrast`.
        label: [...] share of the verdicts that like the response, in [0, 1].
        weight: of the contrast, at least 0.

    Returns:
        [...] nats, unreduced; with shares the mean over verdicts.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if score.shape != (*label.shape, 2):
        raise ValueError(f"scores of {tuple(label.shape)} responses must be two of each, got {tuple(score.shape)}")
    log_policy, contrasts = score.unbind(-1)
    return -label * log_policy + (1 - label) * weight * contrasts


def pairwise_cringe(
    first: Tensor, second: Tensor, prob: Tensor, weight: float, margin: float, temperature: float
) -> Tensor:
    """Returns CRINGE's loss of a pair, times sigma((margin - (lp_w - lp_l)) / temperature): pairs not yet apart count.

    Xu et al. 2023, arXiv:2312.16682. The factor weighs pairs; no gradient flows through it.

    Args:
        first: [..., 2] of the first response, log-probability and sum over tokens of `contrast`.
        second: [..., 2] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        weight: of the loser's contrast, at least 0.
        margin: nats by which a winner is to lead.
        temperature: nats over which the factor falls, positive.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        gate = torch.sigmoid((margin - (winner[..., 0] - loser[..., 0]).detach()) / temperature)
        return gate * (weight * loser[..., 1] - winner[..., 0])

    return _over_outcomes(loss, first, second, prob)


def _over_outcomes(loss: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
    try:
        fits = torch.broadcast_shapes(first.shape, second.shape) == (*prob.shape, 2)
    except RuntimeError:
        fits = False
    if not fits:
        shapes = f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(prob.shape)}"
        raise ValueError(f"scores must be two of each response and broadcast to the shape of prob, got {shapes}")
    return prob * loss(first, second) + (1 - prob) * loss(second, first)
