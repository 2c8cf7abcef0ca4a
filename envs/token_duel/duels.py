"""The token-level duel, for N duels at once in arrays; every view stands on it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.tasks.task import Task
from envs.token_duel.boards import prompt_tokens
from envs.token_duel.chance import episode_uniform, prompt_index, prompts_and_verdicts
from envs.token_duel.rules import ENDED, Rules
from oracles import Oracle
from oracles.base import ask_pairs
from preference_duel.keyed_random import Stream, verdict
from preference_duel.protocols import TokenOracle
from preference_duel.types import Completion, Feedback

Illegal = Literal["replace", "raise"]
PLAYERS = ("player_0", "player_1")
STATE = ("seeds", "episodes", "prompts", "chance", "board", "steps", "phase", "outcome", "revealed")


class TokenDuels:
    """N duels of two players, a token per step for each; a duel is judged when both responses have ended.

    The oracle is asked once per duel, in a batch over the duels that end together, and y ~ Ber(P(player_0 beats
    player_1 | prompt)) is drawn from the key (seed, episode, VERDICT): no batch size and no order of finishing
    changes a verdict. The n-th reset of a duel after it was seeded is episode n, counted from 0.

    Letters: N duels, P prompt tokens (left-padded), T response tokens, V vocabulary. Unused positions hold
    `rules.fill`: PAD, or V if the vocabulary has none.

    Args:
        task: prompts, vocabulary and limits.
        oracle: judge of the responses; a `TokenOracle` also pays for each token.
        size: N.
        feedback: "outcome" reveals y, "probability" P itself.
        illegal: the effect of an illegal token: "replace" plays EOS if EOS is legal, else the smallest legal token;
            "raise" raises, naming the player and the token.

    Attributes:
        paying: the oracle, if it pays for each token; None: all is paid with the verdict.
        seeds: [N] uint64.
        episodes: [N] int64, -1 before the first reset.
        prompts: [N] int64, index into `task.prompts`.
        chance: [N] float64, the uniform below P(player_0 beats player_1) if player_0 is to win.
        board: [N, 2, P + T + 1] int64, prompt and own response; the last column is scratch space.
        steps: [N] int64, tokens played.
        phase: [N, 2] int64, rows of `rules`.
        outcome: [N] int8, 1 if player_0 won, 0 if player_1 did, -1 until the verdict.
        revealed: [N] float64, the feedback, y or P; NaN until the verdict.

    Raises:
        ValueError: if an argument is out of its range or the task's limits leave no game.
    """

    def __init__(
        self,
        task: Task,
        oracle: Oracle,
        size: int = 1,
        feedback: Feedback = "outcome",
        illegal: Illegal = "replace",
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 duel, got {size}")
        for name, value, known in (("feedback", feedback, Feedback), ("illegal", illegal, Illegal)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
        self.task, self.oracle, self.feedback, self.illegal = task, oracle, feedback, illegal
        self.paying = oracle if isinstance(oracle, TokenOracle) else None
        self.rules = Rules.of(task)
        self.width, self.limit, self.size = task.max_prompt_tokens, task.max_new_tokens, size
        self.seeds = np.zeros(size, np.uint64)
        self.episodes = np.full(size, -1)
        self.prompts = np.zeros(size, np.int64)
        self.board = np.full((size, 2, self.width + self.limit + 1), self.rules.fill, np.int64)
        self.steps = np.zeros(size, np.int64)
        self.phase = np.full((size, 2), ENDED, np.int64)
        self.outcome = np.full(size, -1, np.int8)
        self.chance, self.revealed = np.zeros(size), np.full(size, np.nan)
        self._start = np.arange(2 * size).reshape(size, 2) * self.board.shape[2] + self.width
        self._chances = prompts_and_verdicts(size)
        self._encoded: dict[int, NDArray[np.int64]] = {}

    def seed(self, seeds: ArrayLike, rows: NDArray[np.intp] | slice = slice(None)) -> None:
        """Reseeds these duels; their next reset is episode 0.

        Raises:
            ValueError: if a seed is not in [0, 2**64).
        """
        values = np.asarray(seeds, dtype=object)
        if not all(0 <= operator.index(value) < 2**64 for value in values.flat):
            raise ValueError(f"a seed must lie in [0, 2**64), got {seeds!r}")
        self.seeds[rows] = values.astype(np.uint64)
        self.episodes[rows] = -1

    def reset(self, rows: NDArray[np.intp] | None = None) -> None:
        """Starts the next episode of these duels (None: all) with a prompt drawn with replacement.

        Raises:
            ValueError: if a prompt has no token, or more than `task.max_prompt_tokens`.
        """
        chosen = np.arange(self.size) if rows is None else rows
        self.episodes[chosen] += 1
        chance = self._chances.values(chosen, self.seeds[chosen], self.episodes[chosen])
        index = prompt_index(chance[:, 0], len(self.task.prompts))
        self.chance[chosen] = chance[:, 1]
        self._begin(chosen, index, np.array([self.prompt_tokens(i) for i in index.tolist()])[:, None])

    def reset_row(self, row: int) -> None:
        """Starts the next episode of one duel: `reset` without the cost of small arrays.

        Raises:
            ValueError: as `reset`.
        """
        self.episodes[row] += 1
        key = self.seeds.item(row), self.episodes.item(row)
        self.chance[row] = episode_uniform(*key, Stream.VERDICT)
        index = int(episode_uniform(*key, Stream.PROMPT) * len(self.task.prompts))
        self._begin(row, index, self.prompt_tokens(index))

    def step(self, tokens: NDArray[np.integer]) -> NDArray[np.intp]:
        """Plays one token of each player in every duel; a judged duel stays as it is.

        Args:
            tokens: [N, 2] ids in [0, V); those of a player whose response has ended are ignored.

        Returns:
            The rows that this step ended and judged.

        Raises:
            RuntimeError: if some duel was never reset.
            ValueError: for an id outside the vocabulary, an illegal token under `illegal="raise"`, or an oracle
                that breaks its contract.
        """
        rules = self.rules
        if self.episodes.min() < 0:
            raise RuntimeError("step() needs a running duel; call reset() on every row first")
        if tokens.shape != self.phase.shape or not ((tokens >= 0) & (tokens < rules.vocab_size)).all():
            raise ValueError(
                f"tokens must be [{self.size}, 2] ids in [0, {rules.vocab_size}), got {tokens.shape} "
                f"from {tokens.min()} to {tokens.max()}"
            )
        index = self.phase * rules.vocab_size + tokens
        if self.illegal == "raise":
            self._require_legal(tokens, rules.masks.take(index) | (self.outcome >= 0)[:, None])
        self.board.reshape(-1)[self._start + self.steps[:, None]] = rules.written.take(index)
        self.steps = np.minimum(self.steps + 1, self.limit)
        self.phase = np.maximum(rules.after.take(index), rules.by_step.take(self.steps)[:, None])
        over = (self.phase[:, 0] == ENDED) & (self.phase[:, 1] == ENDED) & (self.outcome < 0)
        rows = np.flatnonzero(over)
        if rows.size:
            self._judge(rows)
        return rows

    def step_row(self, row: int, first: int, second: int) -> bool:
        """Plays one token of each player in one unjudged duel: `step` without the cost of small arrays.

        Returns:
            Whether this ended and judged the duel.

        Raises:
            ValueError: as `step`.
        """
        rules, steps = self.rules, self.steps.item(row)
        if not (0 <= first < rules.vocab_size and 0 <= second < rules.vocab_size):
            raise ValueError(f"tokens must be ids in [0, {rules.vocab_size}), got {first} and {second}")
        if self.illegal == "raise":
            tokens = np.array([[first, second]])
            self._require_legal(tokens, rules.masks[self.phase[row], tokens])
        floor = rules.by_step.item(steps + 1)
        over = True
        for seat, token in ((0, first), (1, second)):
            phase = self.phase.item(row, seat)
            self.board[row, seat, self.width + steps] = rules.written.item(phase, token)
            phase = max(floor, rules.after.item(phase, token))
            self.phase[row, seat] = phase
            over = over and phase == ENDED
        self.steps[row] = steps + 1
        if over:
            self._judge(np.array([row]))
        return over

    def masks(self) -> NDArray[np.int8]:
        """Returns [N, 2, V], 1 if a token is legal; the row of an ended response is one-hot at EOS."""
        return self.rules.masks[self.phase]

    def random_tokens(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns a uniformly drawn legal token for each player.

        Args:
            uniforms: [N, 2] in [0, 1).
        """
        place = (uniforms * self.rules.legal_count[self.phase]).astype(np.int64)
        return self.rules.legal[self.phase, place]

    def rewards(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns [M, 2] what the last step paid player_0, and its negative, of duels that it played on.

        That is 2y - 1 or 2P - 1 of a judged duel. Where the oracle pays for tokens, what player_0's last token is paid
        is added, less what player_1's is, and there is something to pay in duels that are not judged.

        Raises:
            ValueError: if the oracle pays anything but one finite number for each token.
        """
        gain = 2 * self.revealed[rows] - 1
        if self.paying is not None:
            gain = np.where(self.outcome[rows] < 0, 0.0, gain) + self._paid(rows, 0) - self._paid(rows, 1)
        return np.multiply.outer(gain, [1.0, -1.0])

    def verdict(self, row: int) -> dict[str, Any]:
        """Returns the infos of a judged duel, in a new dict.

        `outcome` is 1 if player_0 won; `lengths` counts the EOS; `preference` (P) is present only if the feedback is P.
        """
        tokens = [self._response(row, seat) for seat in (0, 1)]
        info: dict[str, Any] = {
            "outcome": self.outcome.item(row),
            "lengths": (len(tokens[0]), len(tokens[1])),
            "hit_limit": (not self.rules.is_end[tokens[0][-1]], not self.rules.is_end[tokens[1][-1]]),
        }
        return {**info, "preference": self.revealed.item(row)} if self.feedback == "probability" else info

    def completion(self, row: int, seat: int) -> Completion:
        """Returns a player's response so far."""
        tokens = self._response(row, seat)
        return Completion(self.task.tokenizer.decode(tokens), tuple(tokens))

    def prompt_tokens(self, index: int) -> NDArray[np.int64]:
        """Returns [P] a prompt's tokens, left-padded.

        Raises:
            ValueError: if it has no token, or more than P.
        """
        if index not in self._encoded:
            self._encoded[index] = prompt_tokens(self.task.prompts[index], self.task, self.rules)
        return self._encoded[index]

    def get_state(self) -> dict[str, NDArray]:
        """Returns copies of everything that changes; task, oracle and settings are not part of it."""
        return {name: getattr(self, name).copy() for name in STATE}

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Continues from `get_state()` of duels of the same task and size.

        Raises:
            ValueError: naming the array that does not fit.
        """
        require_state(self, state, STATE)
        for name in STATE:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype, order="C"))

    def clone(self) -> TokenDuels:
        """Returns an independent copy that shares the task and the oracle, which never change."""
        twin = copy.copy(self)
        twin.set_state(self.get_state())
        twin._chances = prompts_and_verdicts(self.size)
        return twin

    def _begin(self, rows: Any, index: Any, tokens: NDArray[np.int64]) -> None:
        self.prompts[rows] = index
        self.board[rows, ..., : self.width] = tokens
        self.board[rows, ..., self.width :] = self.rules.fill
        self.steps[rows] = 0
        self.phase[rows] = self.rules.by_step.item(0)
        self.outcome[rows] = -1
        self.revealed[rows] = np.nan

    def _judge(self, rows: NDArray[np.intp]) -> None:
        """Asks the oracle about these duels and draws their verdicts."""
        prompts = [self.task.prompts[i] for i in self.prompts[rows].tolist()]
        prob = ask_pairs(self.oracle, prompts, self._texts(rows, 0), self._texts(rows, 1)).double().numpy()
        self.outcome[rows] = won = verdict(prob, self.chance[rows])
        self.revealed[rows] = won if self.feedback == "outcome" else prob

    def _paid(self, rows: NDArray[np.intp], seat: int) -> NDArray[np.float64]:
        """Returns [M] what the oracle pays a player for the token of the last step; 0 after a response's end."""
        assert self.paying is not None
        paid, last = np.zeros(len(rows)), self.width + self.steps[rows] - 1
        playing = np.flatnonzero(self.board[rows, seat, last] != self.rules.fill)
        if playing.size:
            chosen = rows[playing].tolist()
            prompts = [self.task.prompts[self.prompts.item(row)] for row in chosen]
            rewards = self.paying.token_rewards(prompts, [self._response(row, seat) for row in chosen])
            if rewards.shape != playing.shape or not rewards.isfinite().all():
                raise ValueError(
                    f"{type(self.paying).__name__}.token_rewards must return {len(chosen)} finite rewards, one for "
                    f"each beginning, got {rewards}"
                )
            paid[playing] = rewards.double().numpy()
        return paid

    def _texts(self, rows: NDArray[np.intp], seat: int) -> list[str]:
        tokenizer, responses = self.task.tokenizer, self.board[rows, seat, self.width : -1]
        rowwise = getattr(tokenizer, "decode_rows", None)
        if rowwise is not None and len(rows) > 1:
            return rowwise(responses)
        return [tokenizer.decode(_played(tokens, self.rules.fill)) for tokens in responses.tolist()]

    def _response(self, row: int, seat: int) -> list[int]:
        return _played(self.board[row, seat, self.width : -1].tolist(), self.rules.fill)

    def _require_legal(self, tokens: NDArray, legal: NDArray) -> None:
        if legal.all():
            return
        row, seat = np.argwhere(legal == 0)[0]
        token = int(tokens[row, seat])
        raise ValueError(
            f"{PLAYERS[seat]} played the illegal token {token} ({self.task.tokenizer.decode([token])!r}) "
            f"at step {self.steps[row]}; play one that the action mask allows, or pass illegal='replace'"
        )


def require_state(duels: Any, state: Mapping[str, Any], names: Sequence[str]) -> None:
    """Checks that a state holds these arrays, in the shapes that they have in some duels.

    Raises:
        ValueError: naming the array that does not fit.
    """
    for name in names:
        shape = tuple(getattr(duels, name).shape)
        given = tuple(state[name].shape) if name in state else "none"
        if given != shape:
            raise ValueError(f"state['{name}'] must be {shape}, got {given}; was it another task or size?")


def _played(tokens: list[int], fill: int) -> list[int]:
    return tokens[: tokens.index(fill)] if tokens[-1] == fill else tokens
