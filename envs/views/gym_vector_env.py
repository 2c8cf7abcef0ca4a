"""Many one-player duels as a native Gymnasium vector environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.token_duel.one_player import Learner, SoloDuels, solo_duels
from envs.token_duel.spaces import Mask, Obs, mask_place, player_space
from envs.views.transcript import transcript


class SoloVector(VectorEnv[Any, NDArray, NDArray]):
    """N times `gym_env.SoloDuel` in arrays; Gymnasium's `SyncVectorEnv` over that one gives the same at every step.

    A duel that ended is reset by the next step, whose action for it is ignored (autoreset mode NEXT_STEP). Environment
    i has seed s + i.

    Args:
        duels: the duels of a learner.
        seed: of the episodes before the first `reset(seed=...)`.
        obs: "dict" or "flat"; see `PreferenceDuel`.
        mask: where the action mask is; see `PreferenceDuel`.
        render_mode: "ansi" or None.

    Raises:
        ValueError: if an argument is out of its range.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["ansi"]}  # pyright: ignore[reportIncompatibleVariableOverride] - never written to

    def __init__(
        self,
        duels: SoloDuels,
        seed: int = 0,
        obs: Obs = "dict",
        mask: Mask | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        game = duels.duels
        self.solo, self.num_envs, self.render_mode = duels, game.size, render_mode
        self.obs: Obs = obs
        self.mask: Mask = mask_place(obs, mask, game.rules.vocab_size)
        self.single_observation_space = player_space(game.rules, game.width + game.limit, self.obs, self.mask)
        self.single_action_space = Discrete(game.rules.vocab_size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seed(seed, slice(None))

    def set_opponent(self, opponent: Any) -> None:
        """Lets somebody else play from each duel's next reset on.

        Raises:
            ValueError: if it is no opponent.
        """
        self.solo.set_opponent(opponent)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode of each duel, or episode 0 of a new seed.

        Args:
            seed: s for s, s + 1, ...; or one for each duel, None where it goes on.
            options: "reset_mask" [N] bool, the duels that are reset; the others stay where they are.

        Raises:
            ValueError: if seeds or options do not fit, or a response of the opponent is none that the rules allow.
        """
        rows = np.flatnonzero(_reset_mask(options, self.num_envs))
        self._seed(seed, rows)
        self.solo.reset(rows)
        there = np.zeros(self.num_envs, np.bool_)
        there[rows] = True
        return self._observations(), self._infos(there, np.empty(0, np.intp))

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
        judged = self.solo.step(np.where(over, duels.rules.eos, actions))
        self.solo.reset(np.flatnonzero(over))
        rewards, ended = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        rewards[judged], ended[judged] = self.solo.rewards(judged), True
        everywhere = np.ones(self.num_envs, np.bool_)
        return self._observations(), rewards, ended, np.zeros_like(ended), self._infos(everywhere, judged)

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [N, V], True where a token is legal."""
        return self.solo.masks().astype(bool)

    def render(self) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - of frames, text
        """Returns each duel in words."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() shows nothing without render_mode='ansi'")
            return None
        return tuple(transcript(self.solo.duels, row) for row in range(self.num_envs))

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return self.solo.get_state()

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues the episodes that `get_state()` saw, in an environment of the same task and size.

        Raises:
            ValueError: naming the array that does not fit.
        """
        self.solo.set_state(state)

    def clone(self) -> SoloVector:
        """Returns an independent copy in the middle of the same episodes; task, oracle and opponent are shared."""
        twin = copy.copy(self)
        twin.solo = self.solo.clone()
        return twin

    def _seed(self, seed: int | Sequence[int | None] | None, rows: NDArray[np.intp] | slice) -> None:
        """Gives these duels their seeds."""
        if seed is None:
            return
        every = np.arange(self.num_envs)[rows].tolist()
        if isinstance(seed, Sequence):
            if len(seed) != self.num_envs:
                raise ValueError(f"a list of seeds needs one for each of {self.num_envs} duels, got {len(seed)}")
            named = [(row, seed[row]) for row in every if seed[row] is not None]
        else:
            named = [(row, seed + row) for row in every]
        if named:
            self.solo.duels.seed([one for _, one in named], np.array([row for row, _ in named]))

    def _observations(self) -> Any:
        return self.solo.observations(self.obs, self.mask)

    def _infos(self, there: NDArray[np.bool_], judged: NDArray[np.intp]) -> dict[str, Any]:
        """Returns infos as Gymnasium's vectors write them: each key beside `_key`, the duels that it speaks of."""
        infos: dict[str, Any] = {}
        if judged.size:
            for key, values in self.solo.verdicts(judged).items():
                kind = type(values[0])
                whole = np.full(self.num_envs, None) if kind is tuple else np.zeros(self.num_envs, kind)
                whole[judged] = np.fromiter(values, whole.dtype, len(values))
                infos[key], infos[f"_{key}"] = whole, np.zeros(self.num_envs, np.bool_)
                infos[f"_{key}"][judged] = True
        if self.mask == "info":
            infos["action_mask"] = np.where(there[:, None], self.solo.masks(), np.int8(0))
            infos["_action_mask"] = there.copy()
        infos["seat"], infos["_seat"] = np.where(there, self.solo.seats, 0), there
        return infos


def solo_vector(
    num_envs: int = 1, *, opponent: Any = "uniform", learner: Learner = "player_0", **options: Any
) -> SoloVector:
    """Builds `gymnasium.make_vec("duel/PreferenceDuel-v0", num_envs=...)`.

    Args:
        num_envs: N.
        opponent: who plays the other seats; see `SoloDuels`.
        learner: the learner's seat; see `SoloDuels`.
        **options: those of `preference_duel_v0.parallel_env`.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    duels, shown = solo_duels(num_envs, opponent, learner, options)
    return SoloVector(duels, **shown)


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
