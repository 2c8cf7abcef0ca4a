"""Keyed random numbers on tensors: the same bits as `preference_duel.keyed_random`, on any device."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def as_seeds(seeds: ArrayLike) -> Tensor:
    """Returns 64-bit seeds as an int64 tensor of the same bits.

    Raises:
        ValueError: if a seed is not in [0, 2**64).
    """
    values = np.asarray(seeds, dtype=object)
    if not all(0 <= operator.index(value) < 2**64 for value in values.flat):
        raise ValueError(f"a seed must lie in [0, 2**64), got {seeds!r}")
    return torch.from_numpy(values.astype(np.uint64).reshape(-1).view(np.int64))


def uniform(seed: Tensor, stream: int, episode: Tensor) -> Tensor:
    """Returns float64 `preference_duel.keyed_random.uniform(seed, stream, episode)`.

    Products of 32-bit numbers overflow int64, but its 64 bits are those of the unsigned product.

    Args:
        seed: [M] int64, as `as_seeds` makes them.
        stream: below 256.
        episode: [M] int64, below 2**32.
    """
    c0, c1 = episode & _LOW, torch.full_like(episode, int(stream))
    c2, c3 = torch.zeros_like(episode), torch.zeros_like(episode)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        left, right = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c2 = ((right >> 32) & _LOW) ^ c1 ^ k0, ((left >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = right & _LOW, left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return ((c0 << 21) ^ (c1 >> 11)).double() * 2.0**-53


def cumulative_sum(values: Tensor) -> Tensor:
    """Returns the sums [..., T] of values up to each of them; the same bits at every call if torch is to repeat itself.

    CUDA's own has no order to add in, and torch refuses it under `torch.use_deterministic_algorithms(True)`. Then each
    adds what lies 1, 2, 4, ... places before (Hillis and Steele 1986): log2(T) passes over the values.
    """
    if values.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return values.cumsum(-1)
    distance = 1
    while distance < values.shape[-1]:
        later = values[..., distance:] + values[..., :-distance]
        values, distance = torch.cat([values[..., :distance], later], dim=-1), 2 * distance
    return values


def choose(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws indices by inversion of the cumulative distribution, several from each row.

    Args:
        weights: [R, V] at least 0, not all 0; need not sum to 1.
        uniforms: [R, n] float64 in [0, 1).

    Returns:
        [R, n] columns; one of weight 0 is never among them (of repeatable sums on CUDA, but for their rounding).
    """
    edges = cumulative_sum(weights.double())
    total = edges[:, -1:]
    points = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(edges, points, right=True)
