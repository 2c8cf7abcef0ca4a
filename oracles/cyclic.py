"""Preferences of adjustable intransitivity: the curl ratio of their logits equals `lam` exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from oracles.table import TableOracle
from preference_duel.checks import one_of, positive_finite, require, within
from preference_duel.keyed_random import Key, Stream, hash_seed

if TYPE_CHECKING:
    from torch import Tensor

Shape = Literal["disc", "circulant", "random"]
LARGEST = 16_384
"""Responses: one float64 matrix of them is 2 GiB."""


@dataclass(frozen=True)
class CyclicConfig:
    """Part Bradley-Terry, part pure cycle, on a finite task."""

    shape: Shape = "disc"
    """The cycle: "disc" sin(phi_i - phi_j), "circulant" rock-paper-scissors for odd N, "random" Gaussian."""
    lam: float = 0.5
    """Share of the logits' energy that is cyclic, in [0, 1]: 0 is Bradley-Terry, 1 has no ranking at all."""
    scale: float = 2.0
    """Root mean square of the logits over pairs of different responses, in nats, > 0."""
    seed: int = 0
    """Names the game; each prompt has its own, whatever the other prompts are."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> TableOracle:
        """Builds the table of the listed responses, one matrix for each prompt at its first query.

        Raises:
            ValueError: if the task is not finite, or a field or the number of responses is out of range.
        """
        del device  # a table stays on the CPU
        if prompts is None or responses is None:
            raise ValueError("oracle 'cyclic' needs a finite task's prompts and responses: --task symbols or FILE.json")
        count = len(responses)
        _require_game(self, count)
        return TableOracle(partial(_prob, self, tuple(prompts), count), prompts, responses)


def _prob(config: CyclicConfig, prompts: tuple[str, ...], count: int, row: int) -> Tensor:
    seed = hash_seed("cyclic", config.seed, prompts[row])
    return torch.sigmoid(cyclic_logits(config.shape, config.lam, config.scale, count, seed))


def _require_game(config: CyclicConfig, count: int) -> None:
    """Raises unless such a game of `count` responses exists.

    Raises:
        ValueError: naming the field and its range.
    """
    energy = "it is the cyclic share of the logits' energy"
    require(config, shape=one_of(Shape), lam=within("[0, 1]", energy), scale=positive_finite)
    if not 3 <= count <= LARGEST:
        why = "two responses cannot form a cycle" if count < 3 else "the matrix would not fit"
        raise ValueError(f"cyclic needs 3 to {LARGEST} responses, got {count}: {why}")
    if config.shape == "circulant" and count % 2 == 0:
        raise ValueError(
            f"shape 'circulant' needs an odd number of responses, got {count}: in an even circle the opposite one "
            f"would neither win nor lose; use 'disc', or one response more or less"
        )


def cyclic_logits(shape: Shape, lam: float, scale: float, count: int, seed: int) -> Tensor:
    """Returns the logits s (sqrt(1 - lam) G + sqrt(lam) C) of one prompt's game.

    G_ij = r_i - r_j with Gaussian r; C is skew with rows that sum to zero. Both have root mean square 1 over the
    pairs i != j and are orthogonal, so the curl ratio (Jiang et al. 2011, "Statistical ranking and combinatorial
    Hodge theory") is lam.

    Args:
        shape: the cycle.
        lam: cyclic share in [0, 1].
        scale: s, root mean square of the result.
        count: N responses, at least 3.
        seed: names every random number.

    Returns:
        [N, N] float64, skew: positive where i beats j.
    """
    rewards = _normal(seed, np.arange(count), 0)
    logits = _unit(rewards[:, None] - rewards[None, :])
    logits *= scale * math.sqrt(1 - lam)
    cycle = _unit(_divergence_free(CYCLES[shape](count, seed)))
    cycle = _unit(_divergence_free(cycle))
    cycle *= scale * math.sqrt(lam)
    logits += cycle
    return torch.from_numpy(logits)


def _disc(count: int, seed: int) -> NDArray[np.float64]:
    angle = 2 * np.pi * _uniform(seed, np.arange(count), 1)
    return np.sin(angle[:, None] - angle[None, :])


def _circulant(count: int, seed: int) -> NDArray[np.float64]:
    del seed  # the circle is the order of the list
    ahead = (np.arange(count)[None, :] - np.arange(count)[:, None]) % count
    return np.sign(ahead) * np.where(ahead <= count // 2, 1.0, -1.0)


def _random(count: int, seed: int) -> NDArray[np.float64]:
    from scipy.special import ndtri  # scipy takes a quarter of a second

    skew = np.zeros((count, count))
    upper = np.triu_indices(count, 1)
    bits = np.random.Philox(key=seed).random_raw(len(upper[0])) >> np.uint64(11)
    skew[upper] = ndtri((bits + 0.5) * 2.0**-53)
    skew -= skew.T
    return skew


CYCLES: dict[str, Callable[[int, int], NDArray[np.float64]]] = {
    "disc": _disc,
    "circulant": _circulant,
    "random": _random,
}


def _divergence_free(skew: NDArray[np.float64]) -> NDArray[np.float64]:
    """Removes the part that is a difference of row means."""
    mean = skew.mean(axis=1)
    skew -= mean[:, None] - mean[None, :]
    return skew


def _unit(skew: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales to root mean square 1 over the pairs i != j."""
    count = len(skew)
    skew *= math.sqrt(count * (count - 1)) / np.linalg.norm(skew)
    return skew


def _uniform(seed: int, k: NDArray, part: int) -> NDArray[np.float64]:
    return Key(seed, part, Stream.INIT).uniform(k=k)


def _normal(seed: int, k: NDArray, part: int) -> NDArray[np.float64]:
    from scipy.special import ndtri

    return ndtri(_uniform(seed, k, part) + 2.0**-54)
