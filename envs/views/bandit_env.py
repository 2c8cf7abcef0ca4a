"""The duel as a bandit: one action is a whole response, and the verdict comes at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import index
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import ArrayLike, NDArray

from envs.token_duel.boards import tokens_of
from envs.token_duel.one_player import Learner
from envs.views.gym_env import SoloDuel, solo_env

Actions = Literal["candidates", "tokens"]


class ResponseDuel(gymnasium.Env[NDArray[np.int64], Any]):
    """One player of a duel who commits a whole response; every episode is one step.

    The observation is the prompt, left-padded. The same seed and tokens have the same prompt and verdict as in
    `SoloDuel`, and the same infos.

    Args:
        solo: the duel, token by token.
        actions: "candidates", the index of a response in a list; or "tokens", T ids, of which those after EOS are
            not looked at.
        candidates: the texts of that list; None: every response of a finite task.

    Raises:
        ValueError: if an argument is out of its range, there is no list, or the rules do not allow a text of it.
    """

    metadata: ClassVar[dict[str, Any]] = SoloDuel.metadata  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(
        self, solo: SoloDuel, actions: Actions = "candidates", candidates: Sequence[str] | None = None
    ) -> None:
        if actions not in get_args(Actions):
            raise ValueError(f"actions must be one of {get_args(Actions)}, got {actions!r}")
        if actions == "tokens" and candidates is not None:
            raise ValueError("candidates need actions='candidates'; with actions='tokens' any response can be played")
        duels = solo.game.duels
        self.solo, self.actions, self.render_mode = solo, actions, solo.render_mode
        self.observation_space = Box(0, duels.rules.largest_token, (duels.width,), np.int64)
        self.action_space: Space
        if actions == "tokens":
            self.action_space = MultiDiscrete([duels.rules.vocab_size] * duels.limit)
            return
        if candidates is None and duels.task.responses is None:
            raise ValueError(f"task '{duels.task.name}' lists no responses; pass candidates=[...] or actions='tokens'")
        texts = duels.task.response_texts if candidates is None else candidates
        self._candidates = [tokens_of(text, duels.task, duels.rules) for text in texts]
        if not self._candidates:
            raise ValueError("candidates must hold at least one response text, got none")
        self.action_space = Discrete(len(self._candidates))

    def set_opponent(self, opponent: Any) -> None:
        """Lets somebody else play from the next `reset()` on.

        Raises:
            ValueError: if it is no opponent.
        """
        self.solo.set_opponent(opponent)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Starts the next episode, or episode 0 of a new seed; see `SoloDuel.reset`."""
        super().reset(seed=None if seed is None else seed % 2**32)
        _, info = self.solo.reset(seed=seed, options=options)
        return self._prompt(), _told(info)

    def step(self, action: ArrayLike) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        """Commits a response and returns the verdict.

        Args:
            action: the index of a candidate, or [T] token ids.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: if the action is none of the space.
        """
        over, reward, info = False, 0.0, {}
        for token in self._tokens(action):
            _, reward, over, _, info = self.solo.step(token)
            if over:
                break
        while not over:
            _, reward, over, _, info = self.solo.step(self.solo.game.duels.rules.eos)
        return self._prompt(), reward, True, False, _told(info)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of Gymnasium's frames, text
        """Shows the duel, as `SoloDuel.render`."""
        return self.solo.render()

    def get_state(self) -> dict[str, Any]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return self.solo.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues the episode that `get_state()` saw, in an environment of the same task.

        Raises:
            ValueError: if the state is another task's.
        """
        self.solo.set_state(state)

    def clone(self) -> ResponseDuel:
        """Returns an independent copy of the same episode; task, oracle and opponent are shared."""
        twin = copy.copy(self)
        twin.solo = self.solo.clone()
        return twin

    def _tokens(self, action: ArrayLike) -> Sequence[int]:
        given, space = np.asarray(action), self.action_space
        if self.actions == "candidates":
            if given.shape != () or not 0 <= index(given) < len(self._candidates):
                raise ValueError(f"an action is the index of a candidate in [0, {len(self._candidates)}), got {action}")
            return self._candidates[index(given)]
        if given.shape != space.shape or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"an action is {space.shape} token ids, got {given.dtype} {given.shape}")
        size = self.solo.game.duels.rules.vocab_size
        if given.min() < 0 or given.max() >= size:
            raise ValueError(f"tokens must be ids in [0, {size}), got {given.tolist()}")
        return given.tolist()

    def _prompt(self) -> NDArray[np.int64]:
        duels = self.solo.game.duels
        return duels.board[0, 0, : duels.width].copy()


def response_env(
    *,
    actions: Actions = "candidates",
    candidates: Sequence[str] | None = None,
    opponent: Any = "uniform",
    learner: Learner = "player_0",
    **options: Any,
) -> ResponseDuel:
    """Builds `gymnasium.make("duel/ResponseDuel-v0")`.

    Args:
        actions: "candidates" or "tokens"; see `ResponseDuel`.
        candidates: response texts; see `ResponseDuel`.
        opponent: who plays the other seat; see `SoloDuel`.
        learner: the learner's seat; see `SoloDuel`.
        **options: those of `preference_duel_v0.parallel_env`.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    return ResponseDuel(solo_env(opponent=opponent, learner=learner, **options), actions, candidates)


def _told(info: dict[str, Any]) -> dict[str, Any]:
    """Returns infos without the token masks, which a whole response has no use for."""
    return {key: value for key, value in info.items() if key != "action_mask"}
