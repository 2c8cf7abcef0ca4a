"""The duel as an OpenEnv environment: one action is a whole response, in text, and the verdict follows at once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
from openenv.core.env_server import Action, Environment, Observation, State  # pyright: ignore[reportMissingImports] - optional

from envs.token_duel.boards import tokens_of
from envs.token_duel.one_player import Learner
from envs.views.bandit_env import response_env


class DuelAction(Action):
    """A whole response."""

    response: str


class DuelObservation(Observation):
    """The prompt; after the verdict also the opponent's response, and whether the learner's was preferred."""

    prompt: str
    opponent: str | None = None
    won: bool | None = None


class DuelState(State):
    """The duel so far: the prompt and the learner's seat, 0 or 1."""

    prompt: str = ""
    seat: int = 0


class DuelEnvironment(Environment):
    """One seat of the duel against an opponent in the other, as `duel/ResponseDuel-v0`: same seed, prompt and verdict.

    `create_app` takes a callable that makes one for each session: `partial(DuelEnvironment, task="chat", ...)`.

    Args:
        opponent: of the learner; see docs/environment.md.
        learner: the learner's seat: player_0, player_1 or random.
        **options: those of `preference_duel_v0.parallel_env`, `task` and `oracle` among them.

    Raises:
        ValueError: if an argument is out of its range.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, opponent: Any = "uniform", learner: Learner = "player_0", **options: Any) -> None:
        super().__init__()
        self._duel = response_env(actions="tokens", opponent=opponent, learner=learner, **options)
        self._state = DuelState()

    @property
    def state(self) -> DuelState:
        """The duel so far."""
        return self._state

    def reset(self, seed: int | None = None, episode_id: str | None = None, **more: Any) -> DuelObservation:
        """Starts the next duel, or the first of a new seed."""
        del more
        _, info = self._duel.reset(seed=seed)
        duels = self._duel.solo.duels
        prompt = duels.task.prompts[duels.prompts[0]]
        self._state = DuelState(episode_id=episode_id or str(uuid4()), step_count=0, prompt=prompt, seat=info["seat"])
        return DuelObservation(prompt=prompt)

    def step(self, action: DuelAction, timeout_s: float | None = None, **more: Any) -> DuelObservation:
        """Commits a response and returns the verdict, as a reward of +1 or -1, or of the learner's chance.

        Raises:
            ValueError: if the task does not allow the response.
            RuntimeError: if the duel is over, or was never started.
        """
        del timeout_s, more
        duels, seat = self._duel.solo.duels, self._state.seat
        tokens = tokens_of(action.response, duels.task, duels.rules)
        padded = np.full(duels.limit, duels.rules.eos)
        padded[: len(tokens)] = tokens
        _, reward, _, _, info = self._duel.step(padded)
        self._state.step_count += 1
        return DuelObservation(
            prompt=self._state.prompt,
            opponent=duels.completion(0, 1 - seat).text,
            won=info["outcome"] == 1 - seat,
            done=True,
            reward=reward,
        )
