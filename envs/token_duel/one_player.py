"""One learner against an opponent in each of N duels: the rules of every one-player view."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from envs.token_duel.build import token_duels
from envs.token_duel.chance import episode_uniforms
from envs.token_duel.duels import PLAYERS, TokenDuels, require_state
from envs.token_duel.opponents import OpponentSeat
from envs.token_duel.spaces import Mask, Obs, mask_place, player_space
from preference_duel.keyed_random import Stream
from preference_duel.names import nearest

Learner = Literal["player_0", "player_1", "random"]


class SoloDuels:
    """Duels of a learner with an opponent whose response is drawn when the duel begins, and played token by token.

    Args:
        duels: the rules, for N duels.
        opponent: "uniform", a list of response texts, a policy with `draw`, or an `envs.token_duel.opponents.Opponent`.
        learner: the learner's seat: "player_0", "player_1", or "random", drawn for each episode.
        obs: "dict" or "flat"; see `PreferenceDuel`.
        mask: where the action mask is; see `PreferenceDuel`. `masks()` has it always.

    Attributes:
        duels: the two-player duels.
        seats: [N] the learner's seat, 0 or 1.
        responses: [N, T] the opponent's tokens, EOS from the end of its response on.

    Raises:
        ValueError: if the opponent, the seat or the place of the mask is unknown.
    """

    def __init__(
        self,
        duels: TokenDuels,
        opponent: Any = "uniform",
        learner: Learner = "player_0",
        obs: Obs = "dict",
        mask: Mask | None = None,
    ) -> None:
        if learner not in get_args(Learner):
            raise ValueError(f"learner must be one of {get_args(Learner)}, got {learner!r}")
        self.duels, self.learner = duels, learner
        self.obs: Obs = obs
        self.mask: Mask = mask_place(obs, mask, duels.rules.vocab_size)
        self.observation_space = player_space(duels.rules, duels.width + duels.limit, obs, self.mask)
        self.set_opponent(opponent)
        self.seats = np.full(duels.size, PLAYERS.index(learner) if learner in PLAYERS else 0)
        self.responses = np.full((duels.size, duels.limit), duels.rules.eos)
        self._rows = np.arange(duels.size)

    def set_opponent(self, of: Any) -> None:
        """Replaces the opponent from each duel's next reset.

        Raises:
            ValueError: if it is no opponent.
        """
        self._opponent_seat = OpponentSeat(of, self.duels)

    def reset(self, rows: NDArray[np.intp]) -> None:
        """Starts the next episode of these duels.

        Raises:
            ValueError: if the rules do not allow a response of the opponent.
        """
        if not rows.size:
            return
        duels = self.duels
        if duels.size == 1:
            duels.reset_row(0)
        else:
            duels.reset(rows)
        if self.learner == "random":
            self.seats[rows] = 2 * episode_uniforms(duels.seeds[rows], duels.episodes[rows], Stream.SIDE)
        self.responses[rows] = self._opponent_seat.responses(rows)

    def step(self, tokens: NDArray[np.integer]) -> NDArray[np.intp]:
        """Plays one token in every duel, beside the opponent's next one; a judged duel stays as it is.

        Args:
            tokens: [N] ids in [0, V).

        Returns:
            The rows that this step ended and judged.

        Raises:
            RuntimeError: if some duel was never reset.
            ValueError: as `TokenDuels.step`.
        """
        duels = self.duels
        both = np.empty((duels.size, 2), np.int64)
        both[self._places()] = tokens
        both[self._places(1)] = self.responses[self._rows, np.minimum(duels.steps, duels.limit - 1)]
        return duels.step(both)

    def start(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """Starts the next episode of a single duel, or episode 0 of a new seed.

        Raises:
            ValueError: if there are several duels, or options, of which none are known; or as `reset`.
        """
        if self.duels.size != 1:
            raise ValueError(f"this is a view of one duel, got {self.duels.size}")
        if options:
            raise ValueError(
                f"reset() knows no options, got {sorted(options)}; use set_opponent() for another opponent"
            )
        if seed is not None:
            self.duels.seed(seed)
        self.reset(self._rows)

    def step_row(self, row: int, token: int) -> bool:
        """Plays one token in one duel: `step` without the cost of small arrays.

        Returns:
            Whether this ended and judged the duel.

        Raises:
            RuntimeError: if the duel is over or was never started.
            ValueError: as `TokenDuels.step`.
        """
        duels = self.duels
        if duels.episodes.item(row) < 0 or duels.outcome.item(row) >= 0:
            raise RuntimeError("step() needs a running duel; call reset() first, and again after every verdict")
        other = self.responses.item(row, duels.steps.item(row))
        return duels.step_row(row, *((token, other) if self.seats.item(row) == 0 else (other, token)))

    def observation(self, row: int) -> Any:
        """Returns a copy of what one learner sees, an element of `observation_space`."""
        seat = self.seats.item(row)
        board = self.duels.board[row, seat, :-1].copy()
        if self.obs == "flat":
            return board
        if self.mask != "observation":
            return {"observation": board}
        return {"observation": board, "action_mask": self.duels.rules.masks[self.duels.phase.item(row, seat)].copy()}

    def info(self, row: int, mask: bool = True) -> dict[str, Any]:
        """Returns one learner's info: its seat, the verdict once there is one, and perhaps the action mask."""
        info = self.duels.verdict(row) if self.duels.outcome.item(row) >= 0 else {}
        if mask and self.mask == "info":
            info["action_mask"] = self.masks()[row].copy()
        return {**info, "seat": self.seats.item(row)}

    def observations(self) -> Any:
        """Returns copies of what every learner sees, as a batch of `observation_space`."""
        if self.obs == "flat":
            return self.boards()
        if self.mask != "observation":
            return {"observation": self.boards()}
        return {"observation": self.boards(), "action_mask": self.masks()}

    def boards(self) -> NDArray[np.int64]:
        """Returns [N, P + T] prompt and response of each learner, as a copy."""
        return self.duels.board[*self._places(), :-1].copy()

    def masks(self) -> NDArray[np.int8]:
        """Returns [N, V], 1 if a token is legal for the learner."""
        return self.duels.rules.masks[self.duels.phase[self._places()]]

    def rewards(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns [M] the learners' rewards; see `TokenDuels.rewards`."""
        return self.duels.rewards(rows)[np.arange(len(rows)), self.seats[rows]]

    def verdicts(self, rows: NDArray[np.intp]) -> dict[str, list[Any]]:
        """Returns `TokenDuels.verdict` of these rows, a list for each key."""
        duels = self.duels
        responses = duels.board[rows, :, duels.width : -1]
        lengths, last = (responses != duels.rules.fill).sum(axis=2), responses[:, :, -1]
        hit_limit = (last != duels.rules.fill) & ~duels.rules.is_end[np.minimum(last, duels.rules.vocab_size - 1)]
        verdicts: dict[str, list[Any]] = {
            "outcome": duels.outcome[rows].tolist(),
            "lengths": list(map(tuple, lengths.tolist())),
            "hit_limit": list(map(tuple, hit_limit.tolist())),
        }
        if duels.feedback == "probability":
            verdicts["preference"] = duels.revealed[rows].tolist()
        return verdicts

    def _places(self, other: int = 0) -> tuple[Any, Any]:
        """Returns the index of the learners' seats, or of the opponents'; a slice, which is quicker, if it is fixed."""
        if self.learner == "random":
            return self._rows, self.seats ^ other
        return slice(None), self.seats.item(0) ^ other

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return {**self.duels.get_state(), "seats": self.seats.copy(), "responses": self.responses.copy()}

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues from `get_state()` of duels of the same task and size.

        Raises:
            ValueError: naming the array that does not fit.
        """
        require_state(self, state, ("seats", "responses"))
        self.duels.set_state(state)
        self.seats, self.responses = state["seats"].copy(), state["responses"].copy()

    def clone(self) -> SoloDuels:
        """Returns an independent copy that shares the task, the oracle and the opponent."""
        twin = copy.copy(self)
        twin.duels = self.duels.clone()
        twin.set_opponent(self._opponent_seat.opponent)
        twin.seats, twin.responses = self.seats.copy(), self.responses.copy()
        return twin


class OnePlayerView:
    """The methods that every one-player view has besides those of its library.

    Attributes:
        solo: the duels that are viewed.
    """

    solo: SoloDuels

    def set_opponent(self, opponent: Any) -> None:
        """Replaces the opponent from each duel's next reset.

        Raises:
            ValueError: if it is no opponent.
        """
        self.solo.set_opponent(opponent)

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of all that changes but the opponent, for `set_state`."""
        return self.solo.get_state()

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues the episodes that `get_state()` saw, in an environment of the same task and size.

        Raises:
            ValueError: naming the array that does not fit.
        """
        self.solo.set_state(state)

    def clone(self) -> Self:
        """Returns an independent copy in the middle of the same episodes; task, oracle and opponent are shared."""
        twin = copy.copy(self)
        twin.solo = self.solo.clone()
        return twin


def solo_duels(
    num_envs: int, opponent: Any, learner: Learner, options: Mapping[str, Any]
) -> tuple[SoloDuels, int, str | None]:
    """Builds the duels of a one-player view.

    Args:
        num_envs: N.
        opponent: of the learner; see `SoloDuels`.
        learner: the learner's seat; see `SoloDuels`.
        options: those of `preference_duel_v0.parallel_env`.

    Returns:
        The duels, and the view's seed and render mode.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        TypeError: if there is no such option.
        ValueError: if an argument is out of its range.
    """
    rules = dict(options)
    seed, render_mode = rules.pop("seed", 0), rules.pop("render_mode", None)
    obs, mask = rules.pop("obs", "dict"), rules.pop("mask", None)
    known = [name for name in signature(token_duels).parameters if name != "size"]
    for name in rules:
        if name not in known:
            every = [*known, "opponent", "learner", "seed", "obs", "mask", "render_mode"]
            near = nearest(name, every) or "."
            raise TypeError(f"a duel has no option '{name}'{near} Its options are {', '.join(sorted(every))}")
    return SoloDuels(token_duels(num_envs, **rules), opponent, learner, obs, mask), seed, render_mode
