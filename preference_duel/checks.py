"""Checks of numbers in configurations that several oracles share."""

from __future__ import annotations

import math


def require_share(**values: float) -> None:
    """Raises ValueError, naming the field, unless every value lies in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value:g}")


def require_positive(**values: float) -> None:
    """Raises ValueError, naming the field, unless every value is positive and finite."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value:g}")
