"""The duel as a Gymnasium environment: one seat learns, somebody else sits in the other."""

from __future__ import annotations

import copy
from operator import index
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.preference_duel_v0 import parallel_env
from envs.token_duel.chance import episode_uniform
from envs.token_duel.duels import PLAYERS
from envs.token_duel.one_player import Learner, require_seat
from envs.token_duel.opponents import OtherSeat
from envs.views.pettingzoo_env import PreferenceDuel
from preference_duel.keyed_random import Stream

_ROW = np.zeros(1, np.intp)


class SoloDuel(gymnasium.Env[Any, np.int64]):
    """One player of a duel; the other's response is drawn when the duel begins, and played token by token.

    Prompts and verdicts are those of the two-player duel: the same seed and tokens give the same ones. Rewards are the
    learner's. Infos are those of `PreferenceDuel`, with "seat" (0 or 1) from the start.

    Args:
        game: the duel of two.
        opponent: "uniform", a list of response texts, a policy with `draw`, or an `envs.token_duel.opponents.Opponent`.
        learner: the learner's seat: "player_0", "player_1", or "random", drawn for each episode.

    Raises:
        ValueError: if the opponent or the seat is unknown.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "ansi"], "render_fps": 4}  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(self, game: PreferenceDuel, opponent: Any = "uniform", learner: Learner = "player_0") -> None:
        self.game, self.learner = game, require_seat(learner)
        self.render_mode = game.render_mode
        self.observation_space = game.observation_space(PLAYERS[0])
        self.action_space = game.action_space(PLAYERS[0])
        self.set_opponent(opponent)
        self._seat, self._response = 0, ()

    def set_opponent(self, of: Any) -> None:
        """Lets somebody else play from the next `reset()` on.

        Raises:
            ValueError: if it is no opponent.
        """
        self._other = OtherSeat(of, self.game.duels)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode, or episode 0 of a new seed.

        Args:
            seed: in [0, 2**64).
            options: none are known.

        Raises:
            ValueError: if an option is given, or the opponent's response is none that the rules allow.
        """
        if options:
            raise ValueError(
                f"reset() knows no options, got {sorted(options)}; use set_opponent() for another opponent"
            )
        super().reset(seed=None if seed is None else seed % 2**32)
        observations, infos = self.game.reset(seed=seed)
        duels = self.game.duels
        drawn = int(2 * episode_uniform(duels.seeds.item(0), duels.episodes.item(0), Stream.SIDE))
        self._seat = drawn if self.learner == "random" else PLAYERS.index(self.learner)
        self._response = tuple(self._other.responses(_ROW)[0].tolist())
        return self._mine(observations), {**self._mine(infos), "seat": self._seat}

    def step(self, action: np.int64 | int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Plays one token, beside the opponent's next one.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: if the action is outside the vocabulary.
        """
        duels = self.game.duels
        place = duels.steps.item(0)
        other = self._response[place] if place < len(self._response) else duels.rules.eos
        mine, theirs = PLAYERS[self._seat], PLAYERS[1 - self._seat]
        found = self.game.step({mine: index(action), theirs: other})
        observation, reward, terminated, truncated, info = (self._mine(part) for part in found)
        return observation, reward, terminated, truncated, {**info, "seat": self._seat}

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [V], True where a token is legal, as sb3-contrib asks for it."""
        return self.game.action_masks()[PLAYERS[self._seat]].astype(bool)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of Gymnasium's frames, text
        """Shows the duel, as `PreferenceDuel.render`."""
        return self.game.render()

    def get_state(self) -> dict[str, Any]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return {"game": self.game.get_state(), "seat": self._seat, "response": self._response}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues the episode that `get_state()` saw, in an environment of the same task.

        Raises:
            ValueError: if the state is another task's.
        """
        self.game.set_state(state["game"])
        self._seat, self._response = int(state["seat"]), tuple(state["response"])

    def clone(self) -> SoloDuel:
        """Returns an independent copy in the middle of the same episode; task, oracle and opponent are shared."""
        twin = copy.copy(self)
        twin.game = self.game.clone()
        twin.set_opponent(self._other.opponent)
        return twin

    def _mine(self, values: Any) -> Any:
        return values[PLAYERS[self._seat]]


def solo_env(*, opponent: Any = "uniform", learner: Learner = "player_0", **options: Any) -> SoloDuel:
    """Builds `gymnasium.make("duel/PreferenceDuel-v0")`.

    Args:
        opponent: who plays the other seat; see `SoloDuel`.
        learner: the learner's seat; see `SoloDuel`.
        **options: those of `preference_duel_v0.parallel_env`.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    return SoloDuel(parallel_env(**options), opponent, learner)
