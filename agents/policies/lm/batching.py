"""Batches of texts of different lengths: which are read together, and how they are padded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Returns R texts as ids [R, L] on the host, padded with 0 on the right, unseen by a causal model's tokens."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Returns groups of at most `most` tokens, padding included, and at least one text.

    The lengths in a group differ by a quarter at most, so that there is little padding.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        group = groups[-1] if groups else []
        if not group or (len(group) + 1) * lengths[i] > most or lengths[i] > 1.25 * lengths[group[0]]:
            groups.append([])
        groups[-1].append(i)
    return groups


def packed(weights: Sequence[int], most: int) -> list[list[int]]:
    """Returns the indices of some weights, the lightest first, in parts of at most `most` and at least one."""
    parts: list[list[int]] = []
    total = 0
    for i in sorted(range(len(weights)), key=weights.__getitem__):
        total += weights[i]
        if not parts or total > most:
            parts.append([])
            total = weights[i]
        parts[-1].append(i)
    return parts
