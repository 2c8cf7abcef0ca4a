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
