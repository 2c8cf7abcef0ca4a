"""Win rates with the judge's taste for length taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from envs.votes.statistics.bootstrap import interval
from envs.votes.table import Matrix

DRAWS = 999
SPREAD = 10.0
"""Standard deviation of the normal prior of the length coefficient, in nats: verdicts that length decides alone would
make it infinite."""
_NEAREST = 1e-9  # distance of a verdict from 0 and 1, without which theta would be infinite if one side won everything
_ITERATIONS = 100
_BLOCK = 100  # resamples that are fitted at once


@dataclass(frozen=True)
class ControlledRate:
    """A win rate at equal lengths with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def length_controlled(prob: Matrix, gap: Matrix, draws: int = DRAWS, seed: int = 0) -> ControlledRate:
    """Returns the win rate that a logistic model of the verdicts predicts for responses of equal length.

    AlpacaEval 2's (Dubois et al. 2024, arXiv:2404.04475, equation 1): logit P = theta + phi tanh(gap / s), s the
    standard deviation of the gaps, fitted to the verdicts by log loss and read at gap 0: sigmoid(theta).

    Departures. The term of each instruction's difficulty needs verdicts on many models, and is left out. Their L1
    penalty, chosen by cross-validation, and their verdicts on deliberately long and short baselines, which hold phi if
    a model is always longer, are replaced by a prior of phi that is too wide to matter otherwise, and by no value if
    all gaps have one sign: equal lengths would then be an extrapolation. theta has no prior, so that equal lengths give
    the raw win rate. A prompt may have several pairs, which share its weight of 1. The interval, which they do not
    give, is the percentile interval over resampled prompts (resamples without gaps of both signs are left out) with s
    fixed.

    Args:
        prob: [B, n] verdicts in [0, 1], 1 if the policy's response won; NaN: unread, left out.
        gap: [B, n] length of the policy's response less that of its opponent's.
        draws: resamples of the prompts.
        seed: of the resamples.

    Raises:
        ValueError: if the shapes are others, or all is unread.
    """
    if prob.ndim != 2 or gap.shape != prob.shape:
        raise ValueError(f"prob and gap must be [B, n], got {prob.shape} and {gap.shape}")
    read = ~np.isnan(prob)
    if not read.any():
        raise ValueError("none of the verdicts was read, so that there is no win rate")
    kept = read.any(1)
    prob, gap, read = prob[kept], gap[kept], read[kept]
    below, above = ((read & side).any(1) for side in (gap < 0, gap > 0))  # [B]
    alike = not (below | above).any()
    if not alike and not (below.any() and above.any()):
        return ControlledRate(None)
    feature = np.tanh(gap / (float(np.std(gap[read])) or 1.0))
    weight = read / read.sum(1, keepdims=True)
    prob = np.where(read, prob, 0.0)
    value = float(_at_equal_lengths(prob, feature, weight[None])[0])
    count = len(prob)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)  # [draws, B]
    times = times[alike | ((times @ below > 0) & (times @ above > 0))]
    if count < 2 or not len(times):
        return ControlledRate(value)
    parts = np.split(times, range(_BLOCK, len(times), _BLOCK))
    rates = [_at_equal_lengths(prob, feature, part[:, :, None] * weight) for part in parts]
    low, high = interval(np.concatenate(rates))
    return ControlledRate(value, float(low), float(high))


def _at_equal_lengths(prob: Matrix, feature: Matrix, weight: Matrix) -> Matrix:
    """Returns [D] sigmoid(theta) of the fits with weights [D, B, n], by damped Newton steps.

    The damping log(1 + r) / r, r the largest change of a logit, makes each step descend (Sun and Tran-Dinh 2019,
    arXiv:1703.04599, of generalised self-concordant functions).
    """
    x, y, weight = feature.ravel(), prob.clip(_NEAREST, 1 - _NEAREST).ravel(), weight.reshape(len(weight), -1)
    theta, phi = np.zeros((2, len(weight)))
    for _ in range(_ITERATIONS):
        p = expit(theta[:, None] + phi[:, None] * x)
        error, curve = weight * (p - y), weight * p * (1 - p)
        slopes = error.sum(1), error @ x + phi / SPREAD**2
        a, b, c = curve.sum(1), curve @ x, curve @ x**2 + 1 / SPREAD**2
        area = a * c - b**2
        steps = (c * slopes[0] - b * slopes[1]) / area, (a * slopes[1] - b * slopes[0]) / area
        reach = np.abs(steps[0]) + np.abs(steps[1])
        damping = np.where(reach > 0, np.log1p(reach) / np.maximum(reach, 1e-300), 1.0)
        theta, phi = theta - damping * steps[0], phi - damping * steps[1]
        if reach.max() < 1e-6:  # the error of a Newton step is of the order of its square
            break
    return expit(theta)
