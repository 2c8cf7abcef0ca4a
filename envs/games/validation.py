"""Input checks of the solvers: payoff matrix, distribution over responses, memory."""

from __future__ import annotations

import math

import psutil
import torch
from torch import Tensor

_TOLERANCE = 1e-5
_ROWS = 256


def require_game(payoff: Tensor) -> Tensor:
    """Returns [..., N, N] in float64, checked: payoff[i, j] in [0, 1] and payoff[i, j] + payoff[j, i] = 1.

    Raises:
        ValueError: with the size and the place of the error.
    """
    payoff = torch.as_tensor(payoff, dtype=torch.float64)
    if payoff.ndim < 2 or payoff.shape[-1] != payoff.shape[-2] or payoff.numel() == 0:
        raise ValueError(f"payoff must be square, [..., N, N], got {tuple(payoff.shape)}")
    low, high = (float(end) for end in torch.aminmax(payoff))
    if math.isnan(low):
        raise ValueError(f"payoff holds {int(payoff.isnan().sum())} NaN among {payoff.numel()} entries")
    if low < 0 or high > 1:
        raise ValueError(f"payoff must lie in [0, 1], got {low:.6g} to {high:.6g}; is it A = P - 1/2?")
    for start in range(0, payoff.shape[-1], _ROWS):
        rows = slice(start, start + _ROWS)
        skewness = (payoff[..., rows, :] + payoff[..., :, rows].mT - 1).abs()
        if skewness.max() > _TOLERANCE:
            *_, i, j = torch.unravel_index(skewness.argmax(), skewness.shape)
            raise ValueError(
                f"payoff[i, j] + payoff[j, i] must be 1, but misses it by {skewness.max():.3g} at i={start + i}, "
                f"j={j}; ask both orders and average, as oracles.payoff does"
            )
    return payoff


def require_distribution(name: str, policy: Tensor, payoff: Tensor | None = None, positive: bool = False) -> Tensor:
    """Returns [..., N] in float64 on the game's device, checked to be distributions (positive ones) that fit the game.

    Raises:
        ValueError: with the offending number.
    """
    policy = torch.as_tensor(policy, dtype=torch.float64, device=None if payoff is None else payoff.device)
    if policy.ndim < 1 or (payoff is not None and policy.shape[-1] != payoff.shape[-1]):
        expected = "[..., N]" if payoff is None else f"[..., {payoff.shape[-1]}]"
        raise ValueError(f"{name} must be {expected}, got {tuple(policy.shape)}")
    if not (policy >= 0).all():
        raise ValueError(f"{name} must not hold NaN or negative entries, got {policy.min():.6g}")
    if positive and (policy == 0).any():
        raise ValueError(f"{name} must be positive everywhere, {int((policy == 0).sum())} entries are 0")
    error = (policy.sum(-1) - 1).abs().max()
    if error > _TOLERANCE:
        raise ValueError(f"{name} must sum to 1, but misses it by {error:.3g}; are these logits?")
    return policy


def require_one_game(payoff: Tensor) -> Tensor:
    """Returns [N, N], checked as `require_game` does.

    Raises:
        ValueError: if `payoff` is no single preference game.
    """
    payoff = require_game(payoff)
    if payoff.ndim != 2:
        raise ValueError(f"one matrix [N, N] is expected, got {tuple(payoff.shape)}")
    return payoff


def require_memory(count: int, copies: int, device: torch.device, otherwise: str, games: int = 1) -> None:
    """Checks that float64 matrices [N, N] fit into the free memory.

    Args:
        count: N responses.
        copies: matrices of this size in memory at once, for each game.
        device: of the matrices.
        otherwise: advice, for the message.
        games: B.

    Raises:
        ValueError: with the bytes needed and free.
    """
    needed = 8 * copies * games * count**2
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"{games} game{'s' if games > 1 else ''} of {count} responses would take {needed / 2**30:.1f} GiB "
            f"({copies} matrices [{count}, {count}] of float64 each), and {free / 2**30:.1f} GiB of {device.type} "
            f"memory are free; {otherwise}"
        )
