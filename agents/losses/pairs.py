"""Losses of pairs: the margin between two responses' log-ratios, given which one was preferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from agents.losses.shapes import require_one_shape

if TYPE_CHECKING:
    from torch import Tensor


def pair_weight(left_weight: Tensor, right_weight: Tensor, asked: Tensor, exact: bool = False) -> Tensor:
    """Returns how much each pair counts: the product of its draws' weights, over the pairs that were asked.

    A sample's pair with itself is never asked; the rest estimates the mean over two independent draws without bias.

    Args:
        left_weight: [B, K], rows sum to 1.
        right_weight: [B, L], rows sum to 1.
        asked: [B, K, L] bool.
        exact: whether the responses are whole distributions, in which a pair of equals counts like any other.

    Returns:
        [B, K, L], sums to 1 for each prompt.

    Raises:
        ValueError: if the shapes do not fit, or some prompt has no pair.
    """
    weight = left_weight[:, :, None] * right_weight[:, None, :]
    if asked.shape != weight.shape:
        raise ValueError(f"asked must be {tuple(weight.shape)}, got {tuple(asked.shape)}")
    if not exact:
        weight = weight * asked
        if not (weight.sum((1, 2)) > 0).all():
            raise ValueError("some prompt has no asked pair; draw at least 2 responses, or ask more of them")
    return weight / weight.sum((1, 2), keepdim=True)


def squared_terms(ratio: Tensor, weight: Tensor) -> Tensor:
    """Returns v with sum v^2 = sum_kl w_kl (r_k - r_l)^2, exactly if the weights are products of one distribution's.

    sum_kl w_k w_l (r_k - r_l)^2 = 2 sum_k w_k (r_k - mean)^2: K terms tell what K^2 would of the curvature.

    Args:
        ratio: [B, K] nats.
        weight: [B, K, K] of the pairs, symmetric, sums to 1 for each prompt.

    Returns:
        [B, K].
    """
    probs = weight.sum(2)
    return (2 * probs).sqrt() * (ratio - (probs * ratio).sum(1, keepdim=True))


def ipo(margin: Tensor, prob: Tensor, tau: float) -> Tensor:
    """Returns the squared distance of each margin from (P - 1/2)/tau.

    Azar et al. 2023, arXiv:2310.12036, equation 17, and its online form, Calandriello et al. 2024, arXiv:2403.08635,
    Section 4: with outcomes (0 or 1) for `prob` the target is +-1/(2 tau), the papers' loss; with probabilities it is
    the mean of that over outcomes but for a constant. Where both responses are independent draws of the policy itself
    the fixed point is the Nash policy of the game regularised by tau.

    Args:
        margin: [...] log-ratio of the first response minus the second's, nats.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        tau: KL coefficient, positive.

    Returns:
        [...] squared nats, unreduced.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(margins=margin, prob=prob)
    return (margin - (prob - 0.5) / tau).square()


def dpo(margin: Tensor, prob: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy of a Bradley-Terry model whose rewards are beta times the log-ratios.

    Rafailov et al. 2023, arXiv:2305.18290, equation 7; with `label_smoothing` e every label counts as 1 - e (cDPO,
    Mitchell 2023). With probabilities for `prob` it is the mean over outcomes.

    Args:
        margin: [...] log-ratio of the first response minus the second's, nats.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.
        label_smoothing: chance that a label is wrong, in [0, 1/2).

    Returns:
        [...] nats, unreduced.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(margins=margin, prob=prob)
    prob = prob + label_smoothing * (1 - 2 * prob)
    logsigmoid = torch.nn.functional.logsigmoid
    return -prob * logsigmoid(beta * margin) - (1 - prob) * logsigmoid(-beta * margin)


def hinge(margin: Tensor, prob: Tensor, beta: float) -> Tensor:
    """Returns max(0, 1 - beta margin) for the winner's margin: RSO's hinge-norm (Liu et al. 2023, arXiv:2309.06657).

    SLiC-HF takes log-probabilities instead (arXiv:2305.10425).

    Args:
        margin: [...] log-ratio of the first response minus the second's, nats.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: inverse margin, positive.

    Returns:
        [...] unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(margins=margin, prob=prob)
    return prob * (1 - beta * margin).relu() + (1 - prob) * (1 + beta * margin).relu()


def robust_dpo(margin: Tensor, prob: Tensor, beta: float, label_noise: float) -> Tensor:
    """Returns DPO's loss made unbiased under labels that are flipped with a known chance.

    Chowdhury et al. 2024, arXiv:2403.00409, equation 9: ((1 - e) dpo(label) - e dpo(flipped)) / (1 - 2e).

    Args:
        margin: [...] nats.
        prob: [...] in [0, 1], with the noise in it.
        beta: KL coefficient, positive.
        label_noise: e, in [0, 1/2).

    Returns:
        [...] nats, unreduced; may be negative.

    Raises:
        ValueError: if the shapes differ or e is out of range.
    """
    if not 0 <= label_noise < 0.5:
        raise ValueError(f"label_noise must lie in [0, 1/2), got {label_noise}")
    plain, flipped = dpo(margin, prob, beta), dpo(margin, 1 - prob, beta)
    return ((1 - label_noise) * plain - label_noise * flipped) / (1 - 2 * label_noise)


def exo(margin: Tensor, prob: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Returns KL(policy || preferences) over the two responses (Ji et al. 2024, arXiv:2402.00856, equation 16).

    Args:
        margin: [...] nats.
        prob: [...] in [0, 1].
        beta: KL coefficient, positive.
        label_smoothing: e, in (0, 1/2): a certain label counts as 1 - e, or the divergence would be infinite.

    Returns:
        [...] nats, unreduced.

    Raises:
        ValueError: if the shapes differ or e is out of range.
    """
    require_one_shape(margins=margin, prob=prob)
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in (0, 1/2), got {label_smoothing}: a sure label is infinitely far")
    prob = prob + label_smoothing * (1 - 2 * prob)
    logsigmoid = torch.nn.functional.logsigmoid
    first, second = logsigmoid(beta * margin), logsigmoid(-beta * margin)
    return first.exp() * (first - prob.log()) + second.exp() * (second - (1 - prob).log())


def nca(first: Tensor, second: Tensor, prob: Tensor, beta: float) -> Tensor:
    """Returns noise-contrastive alignment's loss for pairs (Chen et al. 2024, arXiv:2402.05369, equation 15).

    -logsig(b r_w) - (logsig(-b r_w) + logsig(-b r_l)) / 2: it looks at both log-ratios, not at their difference alone.

    Args:
        first: [...] log-ratio of the first response, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] in [0, 1].
        beta: KL coefficient, positive.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logsigmoid = torch.nn.functional.logsigmoid

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        both = (logsigmoid(-beta * winner) + logsigmoid(-beta * loser)) / 2
        return -logsigmoid(beta * winner) - both

    return over_outcomes(loss, first, second, prob)


def dpop(first: Tensor, second: Tensor, prob: Tensor, beta: float, lam: float) -> Tensor:
    """Returns DPO's loss with a charge where the winner is less likely than under the reference: DPO-positive.

    Pal et al. 2024, arXiv:2402.13228: -logsig(b (r_w - r_l - lam max(0, -r_w))).

    Args:
        first: [...] log-ratio of the first response, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.
        lam: charge, at least 0; 0 is DPO.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        return -torch.nn.functional.logsigmoid(beta * (winner - loser - lam * (-winner).relu()))

    return over_outcomes(loss, first, second, prob)


def apo_zero(first: Tensor, second: Tensor, prob: Tensor, beta: float) -> Tensor:
    """Returns 1 - sigma(b r_w) + sigma(b r_l) (D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 7).

    Args:
        first: [...] log-ratio of the first response, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.

    Returns:
        [...] in [0, 2], unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return over_outcomes(lambda w, l: torch.sigmoid(-beta * w) + torch.sigmoid(beta * l), first, second, prob)


def apo_down(first: Tensor, second: Tensor, prob: Tensor, beta: float) -> Tensor:
    """Returns sigma(b r_w) + 1 - sigma(b (r_w - r_l)) (D'Oosterlinck et al. 2024, arXiv:2408.06266, equation 8).

    Args:
        first: [...] log-ratio of the first response, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.

    Returns:
        [...] in [0, 2], unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return over_outcomes(lambda w, l: torch.sigmoid(beta * w) + torch.sigmoid(beta * (l - w)), first, second, prob)


def bco(first: Tensor, second: Tensor, prob: Tensor, beta: float) -> Tensor:
    """Returns -logsig(b r_w) - logsig(-b r_l): each response told apart by itself.

    Jung et al. 2024, arXiv:2404.04656, without its reward shift delta, a running mean.

    Args:
        first: [...] log-ratio of the first response, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: KL coefficient, positive.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    return over_outcomes(lambda w, l: -logsigmoid(beta * w) - logsigmoid(-beta * l), first, second, prob)


def over_outcomes(loss: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, prob: Tensor) -> Tensor:
    """Returns the mean over outcomes of a loss of the winner's and the loser's score.

    Args:
        loss: of scores that broadcast together.
        first: [...] score of the first response.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.

    Raises:
        ValueError: if the scores do not broadcast to the shape of `prob`.
    """
    try:
        fits = torch.broadcast_shapes(first.shape, second.shape) == prob.shape
    except RuntimeError:
        fits = False
    if not fits:
        shapes = f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(prob.shape)}"
        raise ValueError(f"scores must broadcast to the shape of prob, got {shapes}")
    return prob * loss(first, second) + (1 - prob) * loss(second, first)
