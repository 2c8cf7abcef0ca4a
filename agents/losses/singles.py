"""Losses of single responses: the log-ratio of one response, given how well it was liked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents.losses.shapes import require_one_shape

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
    require_one_shape(ratio=ratio, label=label)
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
    require_one_shape(ratio=ratio, label=score)
    return (score - value - tau * ratio).square() / 2


def npo(ratio: Tensor, label: Tensor, beta: float, retain: float = 0.0) -> Tensor:
    """Returns -(2/b) logsig(-b r) of what is disliked and -retain r of what is liked: negative preference optimisation.

    Zhang et al. 2024, arXiv:2404.05868, equation 3; with `retain` its NPO + RT, but for log ref, a constant. As b goes
    to 0 its gradient is that of the log-likelihood of what is disliked; NPO is (2/b) DPO of a winner with r = 0.

    Args:
        ratio: [...] log pi - log ref of the responses, nats.
        label: [...] share of the verdicts that like them, in [0, 1].
        beta: how soon a response is unlikely enough, positive.
        retain: weight of the log-likelihood of liked responses, at least 0.

    Returns:
        [...] nats, unreduced; with shares the mean over verdicts.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(ratio=ratio, label=label)
    return (1 - label) * (2 / beta) * torch.nn.functional.softplus(beta * ratio) - label * retain * ratio


def d2o(ratio: Tensor, own_ratio: Tensor, beta: float, alpha: float) -> Tensor:
    """Returns -logsig(b mean_i r(y_i) - a r(y_l)) of a disliked response y_l and one's own samples y_i.

    Duan et al. 2024, arXiv:2403.03419, equation 5: distributional dispreference optimisation. With one sample and a = b
    it is DPO, the sample the winner.

    Args:
        ratio: [...] log pi - log ref of the disliked responses, nats.
        own_ratio: the mean log-ratio of the policy's own samples, nats; broadcasts with `ratio`.
        beta: weight of the own samples, positive.
        alpha: weight of the disliked response, positive.

    Returns:
        [...] nats, unreduced.
    """
    return torch.nn.functional.softplus(alpha * ratio - beta * own_ratio)


def bco_unpaired(ratio: Tensor, label: Tensor, shift: Tensor, beta: float) -> Tensor:
    """Returns -logsig(b r - d) of what is liked and -logsig(d - b r) of what is not.

    Jung et al. 2024, arXiv:2404.04656.

    Args:
        ratio: [...] log pi - log ref of the responses, nats.
        label: [...] share of the verdicts that like them, in [0, 1].
        shift: d, a mean of rewards b r, nats; broadcasts with the others, no gradient.
        beta: KL coefficient, positive.

    Returns:
        [...] nats, unreduced; with shares the mean over verdicts.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(ratio=ratio, label=label)
    logit = beta * ratio - shift
    softplus = torch.nn.functional.softplus
    return label * softplus(-logit) + (1 - label) * softplus(logit)
