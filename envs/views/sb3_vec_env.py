"""The one-player duel for Stable-Baselines3: a native `VecEnv` and a feature extractor for tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from envs.token_duel.one_player import Learner, OnePlayerView, SoloDuels, solo_duels
from envs.token_duel.spaces import board_space
from envs.views.transcript import require_render_mode, transcript


class SoloVecEnv(OnePlayerView, VecEnv):
    """N times `envs.views.gym_env.SoloDuel` in arrays; a `DummyVecEnv` over that one gives the same at every step.

    A duel that ended is reset within the step; its last observation is in `infos[i]["terminal_observation"]`.
    Environment i has seed s + i.

    Args:
        solo: the duels of a learner.
        seed: of the episodes before the first `seed(...)`; row i takes s + i.
        render_mode: "ansi" or None.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, solo: SoloDuels, seed: int = 0, render_mode: str | None = None) -> None:
        self.solo, self.render_mode = solo, require_render_mode(render_mode, ["ansi"])
        game = solo.duels
        super().__init__(game.size, solo.observation_space, Discrete(game.rules.vocab_size))
        game.seed(seed + np.arange(game.size, dtype=object))
        self._rewards, self._ended = np.zeros(game.size, np.float32), np.zeros(game.size, np.bool_)
        self._infos: list[dict[str, Any]] = []

    def reset(self) -> Any:
        """Starts the next episode of each duel, or episode 0 after `seed(...)`."""
        if any(seed is not None for seed in self._seeds):
            self.solo.duels.seed([seed or 0 for seed in self._seeds])
        if any(self._options):
            raise ValueError(f"reset() knows no options, got {self._options}; use set_opponent() for another opponent")
        self._reset_seeds()
        self.solo.reset(np.arange(self.num_envs))
        self.reset_infos = self._first_infos()
        return self.solo.observations()

    def step_async(self, actions: NDArray) -> None:
        """Plays one token in every duel, and starts the next episode of those that ended.

        Raises:
            RuntimeError: if `reset()` was never called.
            ValueError: if the actions have another shape, or one is outside the vocabulary.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions must be [{self.num_envs}] integers, got {actions.dtype} {actions.shape}")
        solo = self.solo
        judged = solo.step(actions)
        self._rewards, self._ended = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        self._infos = [{"seat": seat, "TimeLimit.truncated": False} for seat in solo.seats.tolist()]
        if self.solo.mask == "info":
            self._add_masks(self._infos, slice(None))
        paid = judged if solo.duels.paying is None else np.arange(self.num_envs)
        if not paid.size:
            return
        self._rewards[paid], self._ended[judged] = solo.rewards(paid), True
        if not judged.size:
            return
        verdicts = solo.verdicts(judged)
        for row, *values in zip(judged.tolist(), *verdicts.values(), strict=True):
            self._infos[row].update(zip(verdicts, values, strict=True), terminal_observation=solo.observation(row))
        solo.reset(judged)
        self.reset_infos = self.reset_infos.copy()  # a clone may hold the same list
        for row, info in zip(judged.tolist(), self._first_infos(judged), strict=True):
            self.reset_infos[row] = info

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Returns the result of `step_async`."""
        return self.solo.observations(), self._rewards, self._ended, self._infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [N, V], True if a token is legal."""
        return self.solo.masks().astype(bool)

    def render(self, mode: str | None = None) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of pictures, text
        """Returns each duel in words, under render_mode "ansi"."""
        del mode
        if self.render_mode is None:
            return None
        return tuple(transcript(self.solo.duels, row) for row in range(self.num_envs))

    def close(self) -> None:
        """Does nothing: there is no window."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns an attribute, the same for each of these duels."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raises AttributeError: the duels have no attributes of their own."""
        del value, indices
        raise AttributeError(f"can't set '{attr_name}' of single duels; set it when the environment is built")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method once and returns each duel's share: `action_masks`, `render`, `set_opponent`.

        Raises:
            AttributeError: if there is no such method.
        """
        if method_name not in ("action_masks", "render", "set_opponent"):
            raise AttributeError(f"single duels have action_masks, render and set_opponent, got '{method_name}'")
        results = getattr(self, method_name)(*method_args, **method_kwargs)
        return [None if results is None else results[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Returns False for each of these duels."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]

    def _first_infos(self, rows: NDArray[np.intp] | slice = slice(None)) -> list[dict[str, Any]]:
        """Returns the infos of these duels at the start of an episode."""
        infos: list[dict[str, Any]] = [{"seat": seat} for seat in self.solo.seats[rows].tolist()]
        if self.solo.mask == "info":
            self._add_masks(infos, rows)
        return infos

    def _add_masks(self, infos: list[dict[str, Any]], rows: NDArray[np.intp] | slice) -> None:
        for info, mask in zip(infos, self.solo.masks()[rows], strict=True):
            info["action_mask"] = mask


def sb3_env(
    num_envs: int = 1, *, opponent: Any = "uniform", learner: Learner = "player_0", **options: Any
) -> SoloVecEnv:
    """Builds a native `VecEnv` of N one-player duels; arguments and errors: `solo_duels`."""
    return SoloVecEnv(*solo_duels(num_envs, opponent, learner, options))


class TokenExtractor(BaseFeaturesExtractor):
    """Embeds each token of a board and lays the embeddings side by side: ids never reach a network as numbers.

    For `policy_kwargs={"features_extractor_class": TokenExtractor}`; the action mask is not read.

    Args:
        observation_space: of the duel, "dict" or "flat".
        width: of a token's embedding.
    """

    def __init__(self, observation_space: Space, width: int = 16) -> None:
        board: Any = board_space(observation_space)
        super().__init__(observation_space, int(np.prod(board.shape)) * width)
        self.embedding = nn.Embedding(int(board.high.max()) + 1, width)

    def forward(self, observations: Any) -> Tensor:
        """Returns [N, (P + T) * width]."""
        board = observations["observation"] if isinstance(observations, dict) else observations
        return self.embedding(board.long()).flatten(1)
