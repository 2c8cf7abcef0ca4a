"""One-hot observations, for networks that would take token ids as numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray


class OneHot(gymnasium.ObservationWrapper[NDArray[np.float32], Any, NDArray[np.int64]]):
    """Turns a flat board [P + T] into its tokens' one-hot rows, end to end: [(P + T) * ids] of 0 and 1.

    Args:
        env: a one-player duel with obs="flat", or a `ResponseDuel`.

    Raises:
        ValueError: if its observations are not arrays of token ids.
    """

    def __init__(self, env: gymnasium.Env[NDArray[np.int64], Any]) -> None:
        super().__init__(env)
        board = env.observation_space
        if not isinstance(board, Box) or board.dtype != np.int64 or len(board.shape) != 1:
            raise ValueError(f"OneHot needs boards of token ids, got {board}; build the environment with obs='flat'")
        self._rows = np.eye(int(board.high.max()) + 1, dtype=np.float32)
        self.observation_space = Box(0.0, 1.0, (board.shape[0] * len(self._rows),), np.float32)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the one-hot rows of one observation."""
        return self._rows[observation].ravel()
