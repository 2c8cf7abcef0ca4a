"""One learner in each of N duels: what the vector environments are thin over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs.token_duel.build import token_duels
from envs.token_duel.chance import episode_uniforms
from envs.token_duel.duels import PLAYERS, TokenDuels
from envs.token_duel.opponents import OtherSeat
from envs.token_duel.spaces import Mask, Obs
from preference_duel.keyed_random import Stream

Learner = Literal["player_0", "player_1", "random"]


class SoloDuels:
    """Duels of a learner with an opponent whose response is drawn when the duel begins, and played token by token.

    Args:
        duels: the rules, for N duels.
        opponent: "uniform", a list of response texts, a policy with `draw`, or an `envs.token_duel.opponents.Opponent`.
        learner: the learner's seat: "player_0", "player_1", or "random", drawn for each episode.

    Attributes:
        duels: the duels of two.
        seats: [N] the learner's seat, 0 or 1.
        responses: [N, T] the opponent's tokens, EOS from the end of its response on.

    Raises:
        ValueError: if the opponent or the seat is unknown.
    """

    def __init__(self, duels: TokenDuels, opponent: Any = "uniform", learner: Learner = "player_0") -> None:
        self.duels, self.learner = duels, require_seat(learner)
        self.set_opponent(opponent)
        self.seats = np.full(duels.size, PLAYERS.index(learner) if learner in PLAYERS else 0)
        self.responses = np.full((duels.size, duels.limit), duels.rules.eos)
        self._rows = np.arange(duels.size)

    def set_opponent(self, of: Any) -> None:
        """Lets somebody else play from each duel's next reset on.

        Raises:
            ValueError: if it is no opponent.
        """
        self._other = OtherSeat(of, self.duels)

    def reset(self, rows: NDArray[np.intp]) -> None:
        """Starts the next episode of these duels.

        Raises:
            ValueError: if a response of the opponent is none that the rules allow.
        """
        if not rows.size:
            return
        duels = self.duels
        duels.reset(rows)
        if self.learner == "random":
            self.seats[rows] = 2 * episode_uniforms(duels.seeds[rows], duels.episodes[rows], Stream.SIDE)
        self.responses[rows] = self._other.responses(rows)

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

    def observations(self, obs: Obs, mask: Mask) -> Any:
        """Returns copies of what each learner sees, as `envs.token_duel.spaces.player_space` lays it out."""
        if obs == "flat":
            return self.boards()
        if mask != "observation":
            return {"observation": self.boards()}
        return {"observation": self.boards(), "action_mask": self.masks()}

    def boards(self) -> NDArray[np.int64]:
        """Returns [N, P + T] prompt and response of each learner, as a copy."""
        return self.duels.board[*self._places(), :-1].copy()

    def masks(self) -> NDArray[np.int8]:
        """Returns [N, V], 1 where a token is legal for the learner."""
        return self.duels.rules.masks[self.duels.phase[self._places()]]

    def rewards(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns the learner's rewards of judged duels."""
        gain = 2 * self.duels.revealed[rows] - 1
        return np.where(self.seats[rows] == 0, gain, -gain)

    def verdicts(self, rows: NDArray[np.intp]) -> dict[str, list[Any]]:
        """Returns what `TokenDuels.verdict` tells of each of these rows, key by key."""
        duels = self.duels
        responses = duels.board[rows, :, duels.width : -1]
        lengths, last = (responses != duels.rules.fill).sum(axis=2), responses[:, :, -1]
        hit_limit = (last != duels.rules.fill) & ~duels.rules.is_end[np.minimum(last, duels.rules.vocab_size - 1)]
        told: dict[str, list[Any]] = {
            "outcome": duels.outcome[rows].tolist(),
            "lengths": list(map(tuple, lengths.tolist())),
            "hit_limit": list(map(tuple, hit_limit.tolist())),
        }
        return {**told, "preference": duels.revealed[rows].tolist()} if duels.feedback == "probability" else told

    def _places(self, other: int = 0) -> tuple[Any, Any]:
        """Returns the index [N, 2] of the learners' seats, or of the others'; a fixed one is a slice, and quicker."""
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
        for name in ("seats", "responses"):
            shape = getattr(self, name).shape
            if name not in state or state[name].shape != shape:
                raise ValueError(f"state['{name}'] must be {shape}; was it another task or size?")
        self.duels.set_state({name: value for name, value in state.items() if name not in ("seats", "responses")})
        self.seats, self.responses = state["seats"].copy(), state["responses"].copy()

    def clone(self) -> SoloDuels:
        """Returns an independent copy that shares the task, the oracle and the opponent."""
        twin = copy.copy(self)
        twin.duels = self.duels.clone()
        twin.set_opponent(self._other.opponent)
        twin.seats, twin.responses = self.seats.copy(), self.responses.copy()
        return twin


def solo_duels(
    num_envs: int, opponent: Any, learner: Learner, options: Mapping[str, Any]
) -> tuple[SoloDuels, dict[str, Any]]:
    """Builds what the vector environments are views of.

    Args:
        num_envs: N.
        opponent: see `SoloDuels`.
        learner: see `SoloDuels`.
        options: those of `preference_duel_v0.parallel_env`.

    Returns:
        The duels, and those of the options that are the view's own.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    shown = {name: value for name, value in options.items() if name in ("seed", "obs", "mask", "render_mode")}
    rules = {name: value for name, value in options.items() if name not in shown}
    return SoloDuels(token_duels(num_envs, **rules), opponent, learner), shown


def require_seat(learner: Learner) -> Learner:
    """Returns a learner's seat unchanged.

    Raises:
        ValueError: if there is no such seat.
    """
    if learner not in get_args(Learner):
        raise ValueError(f"learner must be one of {get_args(Learner)}, got {learner!r}")
    return learner
