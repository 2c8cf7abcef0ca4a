"""The checkpoint from which on a curve falls, chosen and measured on different runs or prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from preference_duel.keyed_random import Key, Stream, hash_seed

RESAMPLES = 1000
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with Student's 95 % interval over runs or prompts; of a single one there is none."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Returns "value [low, high]", two digits each."""
        if self.low is None or self.high is None:
            return rounded(self.value)
        return f"{rounded(self.value)} [{rounded(self.low)}, {rounded(self.high)}]"


@dataclass(frozen=True)
class Turn:
    """Where a curve is highest, and how far it falls from there to its last checkpoint.

    Attributes:
        place: of the checkpoint whose mean is highest.
        kl: KL there, with the 95 % interval of resampled units.
        fall: the height of the checkpoint that is highest for the other units, less that of the last checkpoint.
    """

    place: int
    kl: Interval
    fall: Interval

    @property
    def turns(self) -> bool:
        """Whether the fall's interval lies above 0; without an interval whether the fall does."""
        return (self.fall.value if self.fall.low is None else self.fall.low) > 0


def rounded(value: float, digits: int = 2) -> str:
    """Returns a number of so many digits, without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(values: Values, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Returns the mean of [U] values with its interval, cut to what values can be."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5)
    return Interval(mean, max(least, mean - half), min(most, mean + half))


def turn(height: Values, kl: Values) -> Turn:
    """Returns where the mean height is largest, and the fall from there.

    The largest of several noisy means lies above its true height, so that a flat curve would seem to fall. Therefore
    each unit's fall is measured from the checkpoint that is highest in the mean of all other units.

    Args:
        height: [C, U] of each checkpoint by run or prompt.
        kl: [C, U] KL of the checkpoints from the start, nats.

    Raises:
        ValueError: if the shapes differ or there are fewer than two checkpoints.
    """
    if height.shape != kl.shape or len(height) < 2:
        raise ValueError(f"height and kl must be [C >= 2, U], got {height.shape} and {kl.shape}")
    count = height.shape[1]
    place = int(height.mean(1).argmax())
    others = height.sum(1, keepdims=True) - height if count > 1 else height  # the only unit has no others
    units = np.arange(count)
    fall = height[others.argmax(0), units] - height[-1]
    if count < 2:
        return Turn(place, Interval(float(kl[place].mean()), None, None), interval(fall))
    uniforms = Key(hash_seed("turning point"), 0, Stream.EVALUATION).uniform(
        k=np.arange(count)[None, :], l=np.arange(RESAMPLES)[:, None]
    )
    chosen = (uniforms * count).astype(int)  # [R, U]
    tops = height[:, chosen].mean(2).argmax(0)  # [R]
    low, high = np.quantile(kl[:, chosen].mean(2)[tops, np.arange(RESAMPLES)], (0.025, 0.975))
    return Turn(place, Interval(float(kl[place].mean()), float(low), float(high)), interval(fall))
