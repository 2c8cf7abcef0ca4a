"""What chance and the oracle bring to a token-level duel: its prompt, P, and the uniform that decides the verdict."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from envs.keyed import Key, Stream, uniform
from oracles import Oracle
from oracles.check import require_prob

_BLOCK = 512
_AHEAD = 16
_STREAMS = np.array([Stream.PROMPT, Stream.VERDICT])


def ask(oracle: Oracle, prompts: list[str], first: list[str], second: list[str]) -> NDArray[np.float64]:
    """Returns [N] P(first beats second | prompt), both orders averaged where the oracle is not antisymmetric.

    Raises:
        ValueError: if the oracle does not return N probabilities.
    """
    prob = oracle.prob(prompts, first, second)
    require_prob(prob, (len(prompts),), type(oracle).__name__)
    if not oracle.antisymmetric:
        prob = (prob + 1 - oracle.prob(prompts, second, first)) / 2
        require_prob(prob, (len(prompts),), type(oracle).__name__)
    return prob.double().numpy()


def prompt_index(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Returns the prompt that each uniform picks among `count`."""
    return np.floor(uniforms * count).astype(np.int64)


class Chances:
    """What chance brings to N duels, some episodes ahead: the uniforms of many episodes cost little more than one's.

    A memory alone: what it returns is `Key(seed, episode, stream).uniform()` whatever was asked before.

    Args:
        size: N.
    """

    def __init__(self, size: int) -> None:
        self._seeds = np.zeros(size, np.uint64)
        self._first = np.full(size, -_AHEAD)
        self._values = np.empty((len(_STREAMS), size, _AHEAD))

    def of(self, stream: Stream, rows: NDArray[np.intp], seeds: NDArray, episodes: NDArray) -> NDArray[np.float64]:
        """Returns [M] the uniforms of PROMPT or VERDICT for some rows' seeds and episodes."""
        if len(rows) == 1:
            return np.array([episode_uniform(seeds.item(), episodes.item(), stream)])
        place = episodes - self._first[rows]
        stale = (place < 0) | (place >= _AHEAD) | (self._seeds[rows] != seeds)
        if stale.any():
            missing, first = rows[stale], episodes[stale]
            self._seeds[missing], self._first[missing] = seeds[stale], first
            ahead = first[:, None] + np.arange(_AHEAD)
            self._values[:, missing] = uniform(seeds[stale][:, None], _STREAMS[:, None, None], ahead)
            place[stale] = 0
        return self._values[_STREAMS.tolist().index(stream), rows, place]


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
