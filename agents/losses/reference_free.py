"""Losses of pairs that take no reference: of log-probabilities, summed or mean over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents.losses.pairs import over_outcomes

if TYPE_CHECKING:
    from torch import Tensor


def slic(first: Tensor, second: Tensor, prob: Tensor, delta: float, lam: float) -> Tensor:
    """Returns the calibration loss with its regulariser: max(0, delta - lp_w + lp_l) - lam lp_w.

    Zhao et al. 2023, arXiv:2305.10425. The paper's regulariser keeps a target of supervised fine-tuning;
    a duel has none, and its winner takes that place.

    Args:
        first: [...] log-probability of the first response, nats summed over tokens.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        delta: margin, nats, at least 0.
        lam: weight of the regulariser, at least 0.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return over_outcomes(lambda w, l: (delta - w + l).relu() - lam * w, first, second, prob)


def simpo(first: Tensor, second: Tensor, prob: Tensor, beta: float, gamma: float) -> Tensor:
    """Returns -logsig(b (m_w - m_l) - gamma) (Meng et al. 2024, arXiv:2405.14734, equation 6).

    Args:
        first: [...] mean log-probability of the first response's tokens, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: scale of the reward, positive.
        gamma: target margin of the reward, at least 0.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    return over_outcomes(lambda w, l: -logsigmoid(beta * (w - l) - gamma), first, second, prob)


def cpo(first: Tensor, second: Tensor, prob: Tensor, beta: float, alpha: float) -> Tensor:
    """Returns -logsig(b (lp_w - lp_l)) - alpha lp_w: DPO with a uniform reference and a log-likelihood of winners.

    Xu et al. 2024, arXiv:2401.08417, where alpha is 1.

    Args:
        first: [...] log-probability of the first response, nats summed over tokens.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        beta: temperature, positive.
        alpha: weight of the log-likelihood, at least 0.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    return over_outcomes(lambda w, l: -logsigmoid(beta * (w - l)) - alpha * w, first, second, prob)


def orpo(first: Tensor, second: Tensor, prob: Tensor, lam: float) -> Tensor:
    """Returns the winner's negative log-likelihood and -lam logsig of the log odds ratio.

    Hong et al. 2024, arXiv:2403.07691, equations 6 and 7: a response's odds are p / (1 - p), log p = its mean m.

    Args:
        first: [...] mean log-probability of the first response's tokens, nats.
        second: [...] of the second; broadcasts with the first.
        prob: [...] P(first beats second), in [0, 1], or outcomes of it.
        lam: weight of the odds ratio, at least 0.

    Returns:
        [...] nats, unreduced; with probabilities the mean over outcomes.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def loss(winner: Tensor, loser: Tensor) -> Tensor:
        log_odds_ratio = _log_odds(winner) - _log_odds(loser)
        return -winner - lam * torch.nn.functional.logsigmoid(log_odds_ratio)

    return over_outcomes(loss, first, second, prob)


def _log_odds(mean: Tensor) -> Tensor:
    """Returns m - log(1 - e^m); a certain response counts as one of the largest probability below 1."""
    mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    return mean - torch.log(-torch.expm1(mean))
