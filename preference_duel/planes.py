"""Rotations of embeddings whose coordinates come in pairs, one pair for each plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def quarter_turn(vectors: Tensor) -> Tensor:
    """Returns [..., 2k] R u: (x, y) -> (-y, x) in each of k planes (Zhang et al. 2024, arXiv:2410.02197, Section 4)."""
    pairs = vectors.unflatten(-1, (-1, 2))
    return torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
