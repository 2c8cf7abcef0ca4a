"""The duel as a PettingZoo ParallelEnv."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from operator import index
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from envs.token_duel.duels import PLAYERS, TokenDuels
from envs.token_duel.spaces import Mask, Obs, mask_place, player_space
from envs.views.transcript import require_render_mode, show

_FIRST, _SECOND = PLAYERS
_ROW = np.zeros(1, np.intp)


class PreferenceDuel(ParallelEnv[str, Any, Any]):
    """Two players answer one prompt, a token a step, without observing each other, until the oracle has judged both.

    Both stay in `agents` until the verdict, with equal flags; a player whose response has ended has EOS as its only
    legal action. The limit is a rule of the game: it terminates the duel, nothing ever truncates it. The n-th
    `reset()` after a seed is episode n of that seed. Spaces, infos and rewards: docs/environment.md.

    Args:
        duels: the rules, of size 1.
        seed: of the episodes before the first `reset(seed=...)`.
        obs: "dict" {"observation", "action_mask"}, or "flat", the tokens alone.
        mask: where the action mask is: "observation" (of a dict), "info", or "none": only in `action_masks()`.
            None: "none" above 4096 tokens, else "observation" for a dict and "info" for flat ones.
        render_mode: "human" prints at every step, "ansi" returns the text; None: no rendering.

    Raises:
        ValueError: if an argument is out of its range.
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride] - never written to
        "name": "preference_duel_v0",
        "render_modes": ["human", "ansi"],
        "is_parallelizable": True,
        "render_fps": 4,
    }

    def __init__(
        self,
        duels: TokenDuels,
        seed: int = 0,
        obs: Obs = "dict",
        mask: Mask | None = None,
        render_mode: str | None = None,
    ) -> None:
        if duels.size != 1:
            raise ValueError(f"this is a view of one duel, got {duels.size}")
        self.duels, self.render_mode = duels, require_render_mode(render_mode, self.metadata["render_modes"])
        self.obs: Obs = obs
        self.mask: Mask = mask_place(obs, mask, duels.rules.vocab_size)
        self.max_cycles = duels.limit
        self.duels.seed(seed)
        self.possible_agents = list(PLAYERS)
        self.agents = []
        self._make_spaces()

    def observation_space(self, agent: str) -> Space:
        """Returns the space of this player's observations, the same object each time."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        """Returns the vocabulary, the same object each time."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Starts the next episode, or episode 0 of a new seed.

        Args:
            seed: in [0, 2**64).
            options: none are known.
        """
        if seed is not None:
            self.duels.seed(seed)
        self.duels.reset_row(0)
        self.agents = list(PLAYERS)
        if self.render_mode == "human":
            self.render()
        return self._observations(), self._infos(False)

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Plays one token of each player.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: if a player's action is missing or outside the vocabulary.
        """
        if not self.agents:
            raise RuntimeError("step() needs a running duel; call reset() first, and again after every verdict")
        try:
            first, second = actions[_FIRST], actions[_SECOND]
        except KeyError as missing:
            raise ValueError(f"step() needs an action of both players, got none of {missing}") from None
        over = self.duels.step_row(0, index(first), index(second))
        rewards = [0.0, 0.0]
        if over:
            self.agents = []
        if over or self.duels.paying is not None:
            rewards = self.duels.rewards(_ROW)[0].tolist()
        if self.render_mode == "human":
            self.render()
        return (
            self._observations(),
            dict(zip(PLAYERS, rewards, strict=True)),
            {_FIRST: over, _SECOND: over},
            {_FIRST: False, _SECOND: False},
            self._infos(over),
        )

    def action_masks(self) -> dict[str, NDArray[np.int8]]:
        """Returns [V] for each player, 1 if a token is legal."""
        return dict(zip(PLAYERS, self.duels.masks()[0], strict=True))

    def state(self) -> NDArray[np.int64]:
        """Returns [P + 2T] the prompt and both responses."""
        board, width = self.duels.board[0], self.duels.width
        return np.concatenate([board[0, :-1], board[1, width:-1]])

    def render(self) -> str | None:
        """Shows the prompt, both responses and the verdict in words: printed in "human" mode, else returned."""
        return show(self.duels, self.render_mode)

    def close(self) -> None:
        """Does nothing: there is no window."""

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of all that changes, for `set_state`."""
        return self.duels.get_state()

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues the episode that `get_state()` saw, in an environment of the same task.

        Raises:
            ValueError: if the state is another task's.
        """
        self.duels.set_state(state)
        running = self.duels.episodes[0] >= 0 and self.duels.outcome[0] < 0
        self.agents = list(PLAYERS) if running else []

    def clone(self) -> PreferenceDuel:
        """Returns an independent copy in the middle of the same episode; task and oracle are shared.

        `copy.deepcopy` and pickle keep the episode too, and copy the oracle with it.
        """
        twin = copy.copy(self)
        twin.duels, twin.agents = self.duels.clone(), list(self.agents)
        twin.observation_spaces = copy.deepcopy(self.observation_spaces)
        twin.action_spaces = copy.deepcopy(self.action_spaces)
        return twin

    def _make_spaces(self) -> None:
        rules, width, limit = self.duels.rules, self.duels.width, self.duels.limit
        self.observation_spaces = {agent: player_space(rules, width + limit, self.obs, self.mask) for agent in PLAYERS}
        self.action_spaces = {agent: Discrete(rules.vocab_size) for agent in PLAYERS}
        self.state_space = Box(0, rules.largest_token, (width + 2 * limit,), np.int64)

    def _observations(self) -> dict[str, Any]:
        duels, board = self.duels, self.duels.board
        first, second = board[0, 0, :-1].copy(), board[0, 1, :-1].copy()
        if self.obs == "flat":
            return {_FIRST: first, _SECOND: second}
        if self.mask != "observation":
            return {_FIRST: {"observation": first}, _SECOND: {"observation": second}}
        masks, phase = duels.rules.masks, duels.phase
        return {
            _FIRST: {"observation": first, "action_mask": masks[phase.item(0, 0)].copy()},
            _SECOND: {"observation": second, "action_mask": masks[phase.item(0, 1)].copy()},
        }

    def _infos(self, over: bool) -> dict[str, dict[str, Any]]:
        verdict = self.duels.verdict(0) if over else {}
        infos = {_FIRST: verdict, _SECOND: verdict.copy()}
        if self.mask == "info":
            for agent, mask in self.action_masks().items():
                infos[agent]["action_mask"] = mask
        return infos
