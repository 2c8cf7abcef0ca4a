"""Accuracy and calibration of a model on verdicts that it has not learned from."""

from __future__ import annotations

import torch


def foresight(expected: torch.Tensor, seen: torch.Tensor) -> dict[str, float]:
    """Returns how a model's probabilities compare with fresh verdicts.

    Args:
        expected: [M] chances that the first response wins, in (0, 1).
        seen: [M] outcomes, or shares of votes, in [0, 1].

    Returns:
        log_loss: mean -log likelihood, nats.
        accuracy: share of verdicts for the side that the model preferred, 1/2 where it preferred none.
        overconfidence: its mean chance for that side less that share, 0 where it is calibrated.
    """
    loss = -(seen * expected.log() + (1 - seen) * (1 - expected).log()).mean()
    right = torch.where(expected > 0.5, seen, torch.where(expected < 0.5, 1 - seen, 0.5)).mean()
    confidence = torch.maximum(expected, 1 - expected).mean()
    return {"log_loss": loss.item(), "accuracy": right.item(), "overconfidence": (confidence - right).item()}


def most_likely_scale(logits: torch.Tensor, seen: torch.Tensor) -> float:
    """Returns the factor of log-odds, in [0, 1], under which verdicts are most likely; 1 without any.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599, Section 4.2) by 1 / T, at most 1: it takes confidence away
    and gives none, since the small log-odds of a model that knows little yet would be blown up to fit noise.

    Args:
        logits: [M] log-odds that the first response wins.
        seen: [M] outcomes, or shares of votes, in [0, 1].
    """

    def slope(scale: float) -> float:
        return (logits * (seen - (scale * logits).sigmoid())).sum().item()  # of the log likelihood, which is concave

    if slope(1.0) >= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):  # bisection
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low
