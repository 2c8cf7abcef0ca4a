"""Wins of unusual margins left out: which ones are drawn, and how often each one would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.keyed_random import Key


def wins(weight: Tensor, prob: Tensor, self_play: bool) -> Tensor:
    """Returns how much each outcome of a pair counts: that the first response wins, and that the second does.

    Args:
        weight: [B, K, L] of the pairs.
        prob: [B, K, L] P(first wins), or outcomes of it.
        self_play: whether both seats hold the same responses; then [k, l] and [l, k] are one pair, whose outcomes
            count as wins of the first.

    Returns:
        [2, B, K, L].
    """
    first, second = weight * prob, weight * (1 - prob)
    return torch.stack([first + second.mT, torch.zeros_like(second)] if self_play else [first, second])


def margins(first: Tensor, second: Tensor) -> Tensor:
    """Returns [2, B, K, L] by how much the first response leads and the second does, of scores as `agents.pairs`."""
    return torch.stack([first - second, second - first])


def moments(margin: Tensor, mass: Tensor) -> Tensor:
    """Returns [2] the mean of margins and their standard deviation, each counted by its mass."""
    mean = (mass * margin).sum() / mass.sum()
    return torch.stack([mean, ((mass * (margin - mean).square()).sum() / mass.sum()).sqrt()])


def usual(margin: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Returns e^(-(margin - mean)^2 / (2 deviation^2)), the chances by which margins are drawn; 1 if none deviates."""
    if deviation == 0:
        return torch.ones_like(margin)
    return torch.exp(-((margin - mean) / deviation).square() / 2)


def kept(chance: Tensor, mass: Tensor, share: float, key: Key | None) -> Tensor:
    """Returns the masses that `keep` keeps by the uniforms of a key; None: those of `expected_keep`."""
    if key is None:
        return expected_keep(chance, mass, share)
    return keep(chance, mass, share, torch.from_numpy(key.uniform(np.arange(mass.numel()))).view_as(mass))


def keep(chance: Tensor, mass: Tensor, share: float, uniforms: Tensor) -> Tensor:
    """Returns the masses of the items that are drawn without replacement, each time in proportion to the chances.

    An item arrives after an exponential time of rate `chance` (Efraimidis and Spirakis 2006); the first ones are
    kept, at least one and at most a share of all mass.

    Args:
        chance: [...] at least 0, not all 0.
        mass: [...] at least 0, not all 0: how much an item counts.
        share: of the mass that may be kept, in (0, 1].
        uniforms: [...] in [0, 1).

    Returns:
        [...], the mass of an item or 0.
    """
    arrival = torch.where(mass > 0, -torch.log1p(-uniforms) / chance, torch.inf).flatten()
    order = arrival.argsort(stable=True)
    kept = mass.flatten()[order]
    total = kept.cumsum(0)
    kept[1:] = torch.where(total[1:] <= share * total[-1] * (1 + 1e-9), kept[1:], 0)
    return torch.zeros_like(kept).index_put((order,), kept).view_as(mass)


def expected_keep(chance: Tensor, mass: Tensor, share: float) -> Tensor:
    """Returns the masses that `keep` keeps of infinitely many copies of each item.

    An item is kept if it arrives before time t, with probability 1 - e^(-chance t); t keeps the share.

    Args:
        chance: [...] positive.
        mass: [...] at least 0, not all 0.
        share: of the mass that is kept, in (0, 1].

    Returns:
        [...], sums to the share of all mass.
    """
    if share == 1:
        return mass
    low, high = (torch.tensor(end, dtype=mass.dtype) for end in (-50.0, 50.0))  # of log t
    for _ in range(100):
        middle = (low + high) / 2
        found = (mass * -torch.expm1(-chance * middle.exp())).sum()
        low, high = (middle, high) if found < share * mass.sum() else (low, middle)
    return mass * -torch.expm1(-chance * high.exp())
