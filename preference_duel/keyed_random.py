"""Counter-based random numbers: the value depends on the key alone, never on the order of calls.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). One 64-bit seed and four
32-bit counters name one number, so batch size, order, number of processes and resuming a run cannot change it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


class Stream(IntEnum):
    """The use of a random number; different streams are independent."""

    PROMPT = 0
    VERDICT = 1
    OPPONENT = 2
    SIDE = 3
    TOKEN = 4
    EVALUATION = 5
    INIT = 6


def philox(counter: tuple[NDArray, ...], key: tuple[NDArray, NDArray]) -> tuple[NDArray, ...]:
    """Returns Philox4x32-10 of four 32-bit counters under a 64-bit key, elementwise.

    Args:
        counter: four uint64 arrays that broadcast together, each below 2**32.
        key: two uint64 arrays, each below 2**32.

    Returns:
        Four uint64 arrays, each below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (right >> _32) ^ c1 ^ k0, right & _LOW, (left >> _32) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniform(
    seed: ArrayLike,
    stream: ArrayLike,
    episode: ArrayLike,
    k: ArrayLike = 0,
    l: ArrayLike = 0,
    vote: ArrayLike = 0,
) -> NDArray[np.float64]:
    """Returns uniforms in [0, 1) with 53 random bits, one for each key.

    Args:
        seed: 64-bit integers.
        stream: `Stream` values, below 256.
        episode: which duel (or which step of an agent), below 2**32.
        k: left response, below 2**32.
        l: right response (or the prompt's row), below 2**32.
        vote: repetition (or token position), below 2**24.

    Returns:
        float64 array of the arguments' broadcast shape.
    """
    seed, stream, episode, k, l, vote = (
        np.asarray(value).astype(np.uint64) for value in (seed, stream, episode, k, l, vote)
    )
    with np.errstate(over="ignore"):
        high, low, _, _ = philox(
            (episode & _LOW, stream | (vote << np.uint64(8)), k & _LOW, l & _LOW), (seed & _LOW, seed >> _32)
        )
    bits = (high << np.uint64(21)) ^ (low >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53


def verdict(prob: Any, uniforms: Any) -> Any:
    """Returns y ~ Bernoulli(prob): True if the first response wins; every verdict of the project is drawn here.

    Args:
        prob: P(first beats second), an array or a tensor of float64.
        uniforms: [0, 1), of the same kind and shape.
    """
    return uniforms < prob


def choose(weights: ArrayLike, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Draws indices by inversion of the cumulative distribution.

    Args:
        weights: [..., N] at least 0, not all 0; need not sum to 1.
        uniforms: [...] in [0, 1); broadcasts with the weights' leading axes.

    Returns:
        [...] indices; one of weight 0 is never among them.
    """
    edges = np.cumsum(np.asarray(weights, dtype=np.float64), axis=-1)
    total = edges[..., -1]
    points = np.minimum(uniforms * total, np.nextafter(total, 0))  # u * total may round up to the total
    return (edges <= points[..., None]).sum(axis=-1)


def hash_seed(*parts: object) -> int:
    """Returns a 63-bit seed from any values, so that neighbouring seeds share nothing."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class ReplicaSeeds:
    """The seeds of independent replicas whose rows follow one another in one batch.

    Attributes:
        seeds: [W] uint64.
        rows: of each replica.
    """

    seeds: NDArray
    rows: int

    def each(self) -> NDArray:
        """Returns [W * rows] the seed of every row."""
        return np.repeat(self.seeds, self.rows)

    def uniform(
        self, stream: ArrayLike, episode: ArrayLike, k: ArrayLike, l: ArrayLike, vote: ArrayLike
    ) -> NDArray[np.float64]:
        """Returns `uniform(seed, stream, episode, k, row, vote)` of the replica and the row that l names."""
        replica, row = np.divmod(np.asarray(l), self.rows)
        return uniform(self.seeds[replica], stream, episode, k, row, vote)


@dataclass(frozen=True)
class Key:
    """Names a block of random numbers: the random state of everything in this project is one of these.

    Attributes:
        seed: of them; an array broadcasts with the positions; of several replicas, l counts the rows of all.
        episode: which duel, or which step of an agent.
        stream: what they are for.
    """

    seed: int | NDArray | ReplicaSeeds
    episode: ArrayLike = 0
    stream: Stream = Stream.TOKEN

    def at(self, episode: ArrayLike) -> Key:
        """Returns the same key at another episode (or step)."""
        return replace(self, episode=episode)

    def uniform(self, k: ArrayLike = 0, l: ArrayLike = 0, vote: ArrayLike = 0) -> NDArray[np.float64]:
        """Returns this block's uniforms at the given positions; shapes broadcast."""
        if isinstance(self.seed, ReplicaSeeds):
            return self.seed.uniform(int(self.stream), self.episode, k, l, vote)
        return uniform(self.seed, int(self.stream), self.episode, k, l, vote)


@dataclass(frozen=True, kw_only=True)
class Rows(Key):
    """Names a block of random numbers for each of B rows, as if every row were alone in its batch.

    Attributes:
        seeds: [B] each row's seed; `seed` is not read.
        episode: [B] each row's episode.
    """

    seed: int = 0
    seeds: NDArray

    def uniform(self, k: ArrayLike = 0, l: ArrayLike = 0, vote: ArrayLike = 0) -> NDArray[np.float64]:
        """Returns `Key(seeds[l], episode[l], stream).uniform(k, 0, vote)`; shapes broadcast."""
        row = np.asarray(l)
        return uniform(self.seeds[row], int(self.stream), np.asarray(self.episode)[row], k, 0, vote)

    def some(self, rows: NDArray[np.intp]) -> Rows:
        """Returns the key of some of the rows."""
        return replace(self, seeds=self.seeds[rows], episode=np.asarray(self.episode)[rows])
