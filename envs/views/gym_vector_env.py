"""Many one-player duels as a native Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.token_duel.one_player import Learner, OnePlayerView, SoloDuels, solo_duels
from envs.views.transcript import require_render_mode, transcript
from preference_duel.checks import at_least, require


class SoloVector(OnePlayerView, VectorEnv[Any, NDArray, NDArray]):
    """N times `gym_env.SoloDuel` in arrays; Gymnasium's `SyncVectorEnv` over that one gives the same at every step.

    A duel that ended is reset by the next step, whose action for it is ignored (autoreset mode NEXT_STEP). Environment
    i has seed s + i.

    Args:
        solo: the duels of a learner.
        seed: of the episodes before the first `reset(seed=...)`; row i takes s + i.
        render_mode: "ansi" or None.
        max_episode_steps: the learner's tokens after which an episode is truncated, >= 1; None: the task's limit alone.

    Raises:
        ValueError: if an argument is out of its range.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["ansi"]}  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(
        self,
        solo: SoloDuels,
        seed: int = 0,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self.solo, self.num_envs = solo, solo.duels.size
        self.max_episode_steps = max_episode_steps
        require(self, max_episode_steps=at_least(1).or_none())
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self.render_mode = require_render_mode(render_mode, self.metadata["render_modes"])
        self.single_observation_space = solo.observation_space
        self.single_action_space = Discrete(solo.duels.rules.vocab_size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seed(seed, slice(None))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode of each duel, or episode 0 of a new seed.

        Args:
            seed: s for s, s + 1, ...; or one for each duel, None: that duel goes on.
            options: "reset_mask" [N] bool, the duels that are reset; the others are left alone.

        Raises:
            ValueError: if seeds or options do not fit, or the rules do not allow a response of the opponent.
        """
        rows = np.flatnonzero(_reset_mask(options, self.num_envs))
        self._seed(seed, rows)
        self.solo.reset(rows)
        self._elapsed[rows] = 0
        started = np.zeros(self.num_envs, np.bool_)
        started[rows] = True
        return self.solo.observations(), self._infos(started, np.empty(0, np.intp))

    def step(self, actions: NDArray) -> tuple[Any, NDArray, NDArray, NDArray, dict[str, Any]]:
        """Plays one token in every duel that goes on, and starts the next episode of the others.

        Args:
            actions: [N] token ids.

        Raises:
            RuntimeError: if some duel was never started.
            ValueError: if the actions have another shape, or one is outside the vocabulary.
        """
        actions, duels = np.asarray(actions), self.solo.duels
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"actions must be [{self.num_envs}] integers, one token for each duel, got {actions.dtype} "
                f"{actions.shape}"
            )
        over = duels.outcome >= 0
        cut = ~over & self._at_limit()
        tokens = np.where(over, duels.rules.eos, actions)
        if cut.any():  # played once more, which the reset forgets: any legal token will do
            tokens[cut] = self.solo.masks()[cut].argmax(axis=1)
        judged = self.solo.step(tokens)
        judged = judged[~cut[judged]]
        rewards, ended = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        paid = judged if duels.paying is None else np.flatnonzero(~(over | cut))
        rewards[paid], ended[judged] = self.solo.rewards(paid), True
        self.solo.reset(np.flatnonzero(over | cut))
        self._elapsed = np.where(over | cut, 0, self._elapsed + 1)
        everywhere = np.ones(self.num_envs, np.bool_)
        return self.solo.observations(), rewards, ended, self._at_limit(), self._infos(everywhere, judged)

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return {**super().get_state(), "elapsed": self._elapsed.copy()}

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues the episodes that `get_state()` saw; one without `elapsed` has no tokens towards a limit of steps.

        Raises:
            ValueError: naming the array that does not fit.
        """
        super().set_state({name: array for name, array in state.items() if name != "elapsed"})
        self._elapsed = np.array(state.get("elapsed", np.zeros(self.num_envs, np.int64)))

    def clone(self) -> Self:
        """Returns an independent copy in the middle of the same episodes; task, oracle and opponent are shared."""
        twin = super().clone()
        twin._elapsed = self._elapsed.copy()
        return twin

    def _at_limit(self) -> NDArray[np.bool_]:
        """Returns [N], True if an episode has as many steps as it may have, as Gymnasium's `TimeLimit` counts."""
        if self.max_episode_steps is None:
            return np.zeros(self.num_envs, np.bool_)
        return self._elapsed >= self.max_episode_steps

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [N, V], True if a token is legal."""
        return self.solo.masks().astype(bool)

    def render(self) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of frames, text
        """Returns each duel in words."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() shows nothing without render_mode='ansi'")
            return None
        return tuple(transcript(self.solo.duels, row) for row in range(self.num_envs))

    def _seed(self, seed: int | Sequence[int | None] | None, rows: NDArray[np.intp] | slice) -> None:
        """Gives these duels their seeds."""
        if seed is None:
            return
        every = np.arange(self.num_envs)[rows].tolist()
        if isinstance(seed, Sequence):
            if len(seed) != self.num_envs:
                raise ValueError(f"a list of seeds needs one for each of {self.num_envs} duels, got {len(seed)}")
            seeds = [(row, seed[row]) for row in every if seed[row] is not None]
        else:
            seeds = [(row, seed + row) for row in every]
        if seeds:
            self.solo.duels.seed([value for _, value in seeds], np.array([row for row, _ in seeds]))

    def _infos(self, shown: NDArray[np.bool_], judged: NDArray[np.intp]) -> dict[str, Any]:
        """Returns infos as Gymnasium's vectors write them: each key beside `_key`, True for the duels that have it."""
        infos: dict[str, Any] = {}
        if judged.size:
            for key, values in self.solo.verdicts(judged).items():
                kind = type(values[0])
                whole = np.full(self.num_envs, None) if kind is tuple else np.zeros(self.num_envs, kind)
                whole[judged] = np.fromiter(values, whole.dtype, len(values))
                infos[key], infos[f"_{key}"] = whole, np.zeros(self.num_envs, np.bool_)
                infos[f"_{key}"][judged] = True
        if self.solo.mask == "info":
            infos["action_mask"] = np.where(shown[:, None], self.solo.masks(), np.int8(0))
            infos["_action_mask"] = shown.copy()
        infos["seat"], infos["_seat"] = np.where(shown, self.solo.seats, 0), shown
        return infos


def solo_vector(
    num_envs: int = 1,
    *,
    opponent: Any = "uniform",
    learner: Learner = "player_0",
    max_episode_steps: int | None = None,
    **options: Any,
) -> SoloVector:
    """Builds `gymnasium.make_vec("duel/PreferenceDuel-v0", num_envs=...)`; arguments and errors: `solo_duels`."""
    return SoloVector(*solo_duels(num_envs, opponent, learner, options), max_episode_steps)


def _reset_mask(options: dict[str, Any] | None, size: int) -> NDArray[np.bool_]:
    if not options:
        return np.ones(size, np.bool_)
    if set(options) != {"reset_mask"}:
        raise ValueError(f"reset() knows the option 'reset_mask', got {sorted(options)}")
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.shape != (size,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must be a NumPy array [{size}] of bool with a True in it, got {mask!r}"
        )
    return mask
