"""The one-player duel as a Gymnasium environment."""

from __future__ import annotations

from operator import index
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from envs.token_duel.one_player import Learner, OnePlayerView, SoloDuels, solo_duels
from envs.views.transcript import require_render_mode, show

ROW = np.zeros(1, np.intp)
"""The only row of a single duel."""


class SoloDuel(OnePlayerView, gymnasium.Env[Any, np.int64]):
    """One player of a duel; the opponent's response is drawn when the duel begins, and played token by token.

    Prompts and verdicts are those of the two-player duel: the same seed and tokens give the same ones. Rewards are the
    learner's. Infos are those of `PreferenceDuel`, with "seat" (0 or 1) from the start.

    Args:
        solo: the duel, of size 1.
        seed: of the episodes before the first `reset(seed=...)`.
        render_mode: "human" prints at every step, "ansi" returns the text; None: no rendering.

    Raises:
        ValueError: if an argument is out of its range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "ansi"], "render_fps": 4}  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(self, solo: SoloDuels, seed: int = 0, render_mode: str | None = None) -> None:
        self.solo, self.render_mode = solo, require_render_mode(render_mode, self.metadata["render_modes"])
        self.observation_space = solo.observation_space
        self.action_space = Discrete(solo.duels.rules.vocab_size)
        solo.duels.seed(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode, or episode 0 of a new seed.

        Args:
            seed: in [0, 2**64).
            options: none are known.

        Raises:
            ValueError: if an option is given, or the rules do not allow the opponent's response.
        """
        super().reset(seed=None if seed is None else seed % 2**32)
        self.solo.start(seed, options)
        if self.render_mode == "human":
            self.render()
        return self.solo.observation(0), self.solo.info(0)

    def step(self, action: np.int64 | int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Plays one token, beside the opponent's next one.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: if the action is outside the vocabulary.
        """
        over = self.solo.step_row(0, index(action))
        if self.render_mode == "human":
            self.render()
        reward = self.solo.rewards(ROW).item() if over or self.solo.duels.paying is not None else 0.0
        return self.solo.observation(0), reward, over, False, self.solo.info(0)

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [V], True if a token is legal, as sb3-contrib asks for it."""
        return self.solo.masks()[0].astype(bool)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of Gymnasium's frames, text
        """Shows the duel in words: printed in "human" mode, else returned."""
        return show(self.solo.duels, self.render_mode)


def solo_env(*, opponent: Any = "uniform", learner: Learner = "player_0", **options: Any) -> SoloDuel:
    """Builds `gymnasium.make("duel/PreferenceDuel-v0")`; arguments and errors: `solo_duels`."""
    return SoloDuel(*solo_duels(1, opponent, learner, options))
