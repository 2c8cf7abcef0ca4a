"""Losses of single responses: the log-ratio of one response, given how well it was liked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def kto(
    ratio: Tensor, label: Tensor, reference_point: Tensor, beta: float, lambda_d: float = 1.0, lambda_u: float = 1.0
) -> Tensor:
    """Returns lambda_D (1 - sigma(b (r - z0))) of what is liked and lambda_U (1 - sigma(b (z0 - r))) of what is not.

    Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8, without the constant lambda_y. With z0 = 0 it is the
    unpaired form of APO-zero (arXiv:2408.06266).

    Args:
        ratio: [...] log pi - log ref of the responses, nats.
        label: [...] share of the verdicts that like them, in [0, 1].
        reference_point: z0, an estimate of KL(pi, ref), nats; broadcasts with the others, no gradient.
        beta: steepness of the value function, positive.
        lambda_d: weight of liked responses, positive.
        lambda_u: weight of disliked ones, positive.

    Returns:
        [...] in [0, max(lambda_d, lambda_u)], unreduced; with shares the mean over verdicts.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(ratio, label)
    gain = beta * (ratio - reference_point)
    return label * lambda_d * torch.sigmoid(-gain) + (1 - label) * lambda_u * torch.sigmoid(gain)


def dro(ratio: Tensor, score: Tensor, value: Tensor, tau: float) -> Tensor:
    """Returns (s - V - tau r)^2 / 2: the distance from the optimum of E[s] - tau KL(pi, ref).

    Richemond et al. 2024, arXiv:2405.19107, equation 6. Zero for all responses only where pi = ref exp(s / tau) / Z and
    V = tau log Z. With the mean score for V it is Kimi k1.5's surrogate / 2 (arXiv:2501.12599, equation 3); with win
    rates for s and V = 1/2 it is SPPO's / (2 eta^2), eta = 1 / tau.

    Args:
        ratio: [...] log pi - log ref of the responses, nats.
        score: [...] rewards or labels.
        value: V of the prompt, in units of the score; broadcasts with the others.
        tau: KL coefficient, positive.

    Returns:
        [...] squared units of the score, unreduced.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(ratio, score)
    return (score - value - tau * ratio).square() / 2


def _require_alike(ratio: Tensor, label: Tensor) -> None:
    if ratio.shape != label.shape:
        raise ValueError(f"ratio and label must have one shape, got {tuple(ratio.shape)} and {tuple(label.shape)}")
