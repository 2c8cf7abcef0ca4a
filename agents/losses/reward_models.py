"""The loss of a reward model: Bradley-Terry with a margin and centred rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents.losses.pairs import over_outcomes

if TYPE_CHECKING:
    from torch import Tensor


def reward_model(first: Tensor, second: Tensor, prob: Tensor, margin: Tensor | float, centring: float) -> Tensor:
    """Returns -logsig(r_w - r_l - m) + c (r_w + r_l)^2.

    The margin m is Llama 2's (Touvron et al. 2023, arXiv:2307.09288, equation 2). The square (Eisenstein et al. 2023,
    arXiv:2312.09244, which takes c = .01) fixes the constant that the logistic term leaves open.

    Args:
        first: [...] reward of the first response.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        margin: [...] or one for all, by which the winner's reward is to be larger, at least 0.
        centring: c, at least 0.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes of rewards and probabilities do not fit.
    """
    return over_outcomes(
        lambda w, l: -torch.nn.functional.logsigmoid(w - l - margin) + centring * (w + l) ** 2, first, second, prob
    )
