"""REINFORCE leave-one-out on comparisons inside the group of a prompt's samples: a preset of GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agents.grpo import GRPOConfig


@dataclass(frozen=True)
class RLOOConfig(GRPOConfig):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740): GRPO with its settings changed to RLOO's."""

    baseline: Literal["mean", "others"] = "others"
    """Baseline of a reward: the mean of its others, or of the whole group."""
    scale_rewards: bool = False
    """Divide by the standard deviation of the group's rewards, as GRPO does."""
    kl: Literal["return", "loss"] = "return"
    """return: every token pays tau times the log-ratios from itself on. loss: GRPO's k3 estimate is added."""
