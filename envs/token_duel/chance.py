"""What chance and the oracle bring to a token-level duel: its prompt, P, and the uniform that decides the verdict."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from preference_duel.keyed_random import Key, Stream, uniform

_BLOCK = 512
AHEAD = 32
"""Episodes of a duel whose chance is drawn at once."""
_STREAMS = np.array([Stream.PROMPT, Stream.VERDICT])


def prompt_index(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Returns the prompt that each uniform picks among `count`."""
    return np.floor(uniforms * count).astype(np.int64)


class Ahead:
    """A memory of what the coming episodes of N duels bring, since many cost little more than one.

    A memory alone: what it returns depends on seed and episode, never on what was asked before.

    Args:
        size: N.
        made: from seeds [M, 1] and episodes [M, AHEAD] to what they bring, [M, AHEAD, ...].
    """

    def __init__(self, size: int, made: Callable[[NDArray, NDArray], NDArray]) -> None:
        self._made = made
        self._seeds = np.zeros(size, np.uint64)
        self._first, self._asked = np.full(size, -AHEAD), np.zeros(size, np.int64)
        self._values: NDArray | None = None

    def of(self, rows: NDArray[np.intp], seeds: NDArray, episodes: NDArray) -> NDArray:
        """Returns [M, ...] what these episodes of some duels bring."""
        place = episodes - self._first[rows]
        stale = (place < 0) | (place >= AHEAD) | (self._seeds[rows] != seeds)
        self._seeds[rows], self._asked[rows] = seeds, episodes
        if stale.any():
            self._renew(rows[stale])
            place = episodes - self._first[rows]
        assert self._values is not None
        return self._values[rows, place]

    def _renew(self, rows: NDArray[np.intp]) -> None:
        """Makes the coming episodes of these duels, and of all that are half through theirs."""
        due = (self._first >= 0) & (self._asked - self._first > AHEAD // 2)
        due[rows] = True
        chosen = np.flatnonzero(due)
        first = self._first[chosen] = self._asked[chosen]
        made = self._made(self._seeds[chosen, None], first[:, None] + np.arange(AHEAD))
        if self._values is None:
            self._values = np.zeros((len(due), *made.shape[1:]), made.dtype)
        self._values[chosen] = made


def prompts_and_verdicts(size: int) -> Ahead:
    """Returns the uniforms that choose the prompts and the verdicts of N duels, [..., 2], some episodes ahead."""
    return Ahead(size, _prompts_and_verdicts)


def _prompts_and_verdicts(seeds: NDArray, episodes: NDArray) -> NDArray[np.float64]:
    return uniform(seeds[..., None], _STREAMS, episodes[..., None])


def episode_uniforms(seeds: NDArray, episodes: NDArray, stream: Stream) -> NDArray[np.float64]:
    """Returns [M] `Key(seed, episode, stream).uniform()`."""
    if len(seeds) > 1:
        return uniform(seeds, int(stream), episodes)
    return np.array([episode_uniform(seeds.item(), episodes.item(), stream)])


def episode_uniform(seed: int, episode: int, stream: Stream) -> float:
    """Returns `Key(seed, episode, stream).uniform()`, read from a block of episodes."""
    block, place = divmod(episode, _BLOCK)
    return _block(seed, stream, block)[place]


@lru_cache(maxsize=256)
def _block(seed: int, stream: Stream, block: int) -> list[float]:
    """Draws the uniforms of 512 episodes, which costs little more than drawing one."""
    return Key(seed, block * _BLOCK + np.arange(_BLOCK), stream).uniform().tolist()
