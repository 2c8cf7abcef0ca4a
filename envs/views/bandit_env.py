"""The duel as a bandit: one action is a whole response, and the verdict follows at once."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import ArrayLike, NDArray

from envs.token_duel.boards import tokens_of
from envs.token_duel.one_player import Learner, OnePlayerView, SoloDuels, solo_duels
from envs.views.gym_env import ROW, SoloDuel
from envs.views.transcript import require_render_mode, show

Actions = Literal["candidates", "tokens"]


class ResponseDuel(OnePlayerView, gymnasium.Env[NDArray[np.int64], Any]):
    """One player of a duel who commits a whole response; every episode is one step.

    The observation is the prompt, left-padded. The same seed and tokens have the same prompt and verdict as in
    `SoloDuel`, and the same infos without action masks.

    Args:
        solo: the duel, of size 1.
        seed: of the episodes before the first `reset(seed=...)`.
        render_mode: "human", "ansi" or None, as `SoloDuel`.
        actions: "candidates", the index of a response in a list; or "tokens", T ids; those after EOS are ignored.
        candidates: the texts of that list; None: every response of a finite task.

    Raises:
        ValueError: if an argument is out of its range, there is no list, or the rules do not allow a text of it.
    """

    metadata: ClassVar[dict[str, Any]] = SoloDuel.metadata  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(
        self,
        solo: SoloDuels,
        seed: int = 0,
        render_mode: str | None = None,
        actions: Actions = "candidates",
        candidates: Sequence[str] | None = None,
    ) -> None:
        if actions not in get_args(Actions):
            raise ValueError(f"actions must be one of {get_args(Actions)}, got {actions!r}")
        if actions == "tokens" and candidates is not None:
            raise ValueError("candidates need actions='candidates'; with actions='tokens' any response can be played")
        duels = solo.duels
        self.solo, self.render_mode = solo, require_render_mode(render_mode, self.metadata["render_modes"])
        self.actions = actions
        self.observation_space = Box(0, duels.rules.largest_token, (duels.width,), np.int64)
        self.action_space: Space
        duels.seed(seed)
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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Starts the next episode, or episode 0 of a new seed; see `SoloDuel.reset`."""
        super().reset(seed=None if seed is None else seed % 2**32)
        self.solo.start(seed, options)
        if self.render_mode == "human":
            self.render()
        return self._prompt(), self.solo.info(0, mask=False)

    def step(self, action: ArrayLike) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        """Commits a response and returns the verdict, with what its tokens were paid if the oracle pays for them.

        Args:
            action: the index of a candidate, or [T] token ids.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: if the action is none of the space.
        """
        tokens, limit, reward = self._tokens(action), self.solo.duels.limit, 0.0
        for token in [*tokens, *[self.solo.duels.rules.eos] * limit][:limit]:
            over = self.solo.step_row(0, token)
            if over or self.solo.duels.paying is not None:
                reward += self.solo.rewards(ROW).item()
            if self.render_mode == "human":
                self.render()
            if over:
                break
        return self._prompt(), reward, True, False, self.solo.info(0, mask=False)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of Gymnasium's frames, text
        """Shows the duel in words: printed in "human" mode, else returned."""
        return show(self.solo.duels, self.render_mode)

    def _tokens(self, action: ArrayLike) -> Sequence[int]:
        given, space = np.asarray(action), self.action_space
        if self.actions == "candidates":
            if given.shape != () or not 0 <= index(given) < len(self._candidates):
                raise ValueError(f"an action is the index of a candidate in [0, {len(self._candidates)}), got {action}")
            return self._candidates[index(given)]
        if given.shape != space.shape or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"an action is {space.shape} token ids, got {given.dtype} {given.shape}")
        size = self.solo.duels.rules.vocab_size
        if given.min() < 0 or given.max() >= size:
            raise ValueError(f"tokens must be ids in [0, {size}), got {given.tolist()}")
        return given.tolist()

    def _prompt(self) -> NDArray[np.int64]:
        duels = self.solo.duels
        return duels.board[0, 0, : duels.width].copy()


def response_env(
    *,
    actions: Actions = "candidates",
    candidates: Sequence[str] | None = None,
    opponent: Any = "uniform",
    learner: Learner = "player_0",
    **options: Any,
) -> ResponseDuel:
    """Builds `gymnasium.make("duel/ResponseDuel-v0")`; the other arguments and the errors are those of `solo_duels`.

    Args:
        actions: "candidates" or "tokens"; see `ResponseDuel`.
        candidates: response texts; see `ResponseDuel`.
        opponent: of the learner.
        learner: the learner's seat.
        **options: those of `preference_duel_v0.parallel_env`.
    """
    return ResponseDuel(*solo_duels(1, opponent, learner, options), actions, candidates)
