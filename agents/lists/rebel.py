"""Regression to relative rewards: log-ratios are fitted to differences of win rates; a preset of SPO."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.learning.policy_gradient import GradientConfig
from agents.spo import SPOConfig


@dataclass(frozen=True)
class REBELConfig(SPOConfig):
    """REBEL (Gao et al. 2024, arXiv:2404.16767) by win rates: SPO whose gradient is the paper's regression."""

    gradient: GradientConfig = field(default_factory=lambda: GradientConfig(form="rebel"))
    """Form rebel, and of it the step size `eta` and the steps on each batch, `epochs`."""
