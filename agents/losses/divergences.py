"""Derivatives f' of f-divergences at t = pi/ref: the rewards that f-DPO gives responses in place of log t."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from agents.losses.classification import LARGEST

if TYPE_CHECKING:
    from torch import Tensor


def forward_kl(ratio: Tensor) -> Tensor:
    """Returns -1/t, of KL(ref || pi).

    Wang et al. 2023, arXiv:2309.16240, as are the others here.

    Args:
        ratio: [...] log t, nats; below -80 as if it were -80, so that 1/t is finite.
    """
    return -(-ratio).clamp(max=LARGEST).exp()


def jensen_shannon(ratio: Tensor) -> Tensor:
    """Returns log(2t / (1 + t)), at most log 2.

    Args:
        ratio: [...] log t, nats.
    """
    return math.log(2) + torch.nn.functional.logsigmoid(ratio)


def alpha_divergence(ratio: Tensor, alpha: float) -> Tensor:
    """Returns (1 - t^-alpha) / alpha, at most 1/alpha; towards alpha 0 it is log t, at alpha 1 forward KL's 1 - 1/t.

    Args:
        ratio: [...] log t, nats; where alpha log t is below -80 as if it were -80.
        alpha: in (0, 1).
    """
    return (1 - (-alpha * ratio).clamp(max=LARGEST).exp()) / alpha
