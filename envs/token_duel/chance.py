"""Random numbers of the token-level duel: uniforms of prompts, seats and verdicts, drawn in blocks of episodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from preference_duel.keyed_random import Key, Stream, uniform

_BLOCK = 512
EPISODES_AHEAD = 32
"""Episodes of a duel whose random numbers are drawn at once."""
_STREAMS = np.array([Stream.PROMPT, Stream.VERDICT])


def prompt_index(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Returns the prompt that each uniform picks among `count`."""
    return np.floor(uniforms * count).astype(np.int64)


class Lookahead:
    """Caches the random numbers of the coming episodes of N duels: drawing 32 costs little more than drawing one.

    The values depend on seed and episode alone, never on earlier calls.

    Args:
        size: N.
        draw: from seeds [M, 1] and episodes [M, EPISODES_AHEAD] to their values, [M, EPISODES_AHEAD, ...].
    """

    def __init__(self, size: int, draw: Callable[[NDArray, NDArray], NDArray]) -> None:
        self._draw = draw
        self._seeds = np.zeros(size, np.uint64)
        self._first, self._episodes = np.full(size, -EPISODES_AHEAD), np.zeros(size, np.int64)
        self._values: NDArray | None = None

    def values(self, rows: NDArray[np.intp], seeds: NDArray, episodes: NDArray) -> NDArray:
        """Returns [M, ...] the values of one episode of each of these duels."""
        place = episodes - self._first[rows]
        stale = (place < 0) | (place >= EPISODES_AHEAD) | (self._seeds[rows] != seeds)
        self._seeds[rows], self._episodes[rows] = seeds, episodes
        if stale.any():
            self._renew(rows[stale])
            place = episodes - self._first[rows]
        assert self._values is not None
        return self._values[rows, place]

    def _renew(self, rows: NDArray[np.intp]) -> None:
        """Draws the coming episodes of these duels, and of all that have used half of theirs."""
        due = (self._first >= 0) & (self._episodes - self._first > EPISODES_AHEAD // 2)
        due[rows] = True
        chosen = np.flatnonzero(due)
        first = self._first[chosen] = self._episodes[chosen]
        drawn = self._draw(self._seeds[chosen, None], first[:, None] + np.arange(EPISODES_AHEAD))
        if self._values is None:
            self._values = np.zeros((len(due), *drawn.shape[1:]), drawn.dtype)
        self._values[chosen] = drawn


def prompts_and_verdicts(size: int) -> Lookahead:
    """Returns the uniforms of the prompts and the verdicts of N duels, [..., 2], cached some episodes ahead."""
    return Lookahead(size, _prompts_and_verdicts)


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
