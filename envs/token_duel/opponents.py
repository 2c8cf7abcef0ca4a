"""Opponents of the one-player duel; they return whole responses, since neither player observes the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.tasks.task import Task
from envs.token_duel.boards import Responses, response_board, tokens_of
from envs.token_duel.chance import Lookahead
from envs.token_duel.duels import TokenDuels
from envs.token_duel.rules import Rules
from preference_duel.keyed_random import Rows, Stream, choose

_PICK = 2**31
"""The counter k by which a pool picks; responses are drawn by k = 0."""


@runtime_checkable
class Opponent(Protocol):
    """Responds to prompts."""

    def respond(self, prompts: Sequence[str], key: Rows) -> Responses:
        """Returns the tokens of one response to each prompt, its EOS included.

        Args:
            prompts: B prompts.
            key: of the random numbers; row b's are `key.uniform(k=..., l=b, vote=...)`, whatever B is.

        Returns:
            B lists of ids, or an array [B, T]; EOS may follow a response's end.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """Plays legal tokens uniformly at random."""

    rules: Rules

    def respond(self, prompts: Sequence[str], key: Rows) -> NDArray[np.int64]:
        """Returns one response to each prompt."""
        rules, limit = self.rules, len(self.rules.by_step) - 1
        phase = rules.by_step[:-1]  # of a response that goes on; EOS hides what is drawn after it
        uniforms = key.uniform(l=np.arange(len(prompts))[:, None], vote=np.arange(limit))
        tokens = rules.legal[phase, (uniforms * rules.legal_count[phase]).astype(np.int64)]
        ended = np.logical_or.accumulate(rules.is_end[tokens], axis=1)
        tokens[:, 1:][ended[:, :-1]] = rules.eos
        return tokens


@dataclass(frozen=True)
class Fixed:
    """Plays one of a list of responses, uniformly at random.

    Attributes:
        responses: in tokens, each with its EOS if it ends before the limit.
    """

    responses: Sequence[Sequence[int]]

    def respond(self, prompts: Sequence[str], key: Rows) -> list[Sequence[int]]:
        """Returns one of them for each prompt."""
        chosen = key.uniform(l=np.arange(len(prompts))) * len(self.responses)
        return [self.responses[int(place)] for place in chosen.tolist()]


@dataclass(frozen=True)
class PolicyOpponent:
    """Plays the responses of a policy.

    Attributes:
        policy: has `draw(prompts, n, key)`, as `agents.Policy`; one response is sampled from an exact policy's list.
    """

    policy: Any

    def respond(self, prompts: Sequence[str], key: Rows) -> list[Sequence[int]]:
        """Returns one draw for each prompt.

        Raises:
            ValueError: if the policy's responses have no tokens.
        """
        drawn, weights = self.policy.draw(list(prompts), 1, key)
        places = [0] * len(prompts)
        if len(drawn[0]) > 1:
            places = choose(weights, key.uniform(l=np.arange(len(prompts)))).tolist()
        chosen = [row[place] for row, place in zip(drawn, places, strict=True)]
        for response in chosen:
            if response.tokens is None:
                raise ValueError(f"the opponent drew a response without tokens, {response.text!r}")
        return [response.tokens for response in chosen]


@dataclass(frozen=True)
class Pool:
    """Lets one of several opponents play each duel: a population, or older snapshots of oneself.

    Attributes:
        opponents: the members of the pool.
        weights: unnormalised probabilities, at least 0, not all 0; None: uniform.
    """

    opponents: Sequence[Opponent]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if opponents and weights do not fit."""
        weights = self._chances()
        if not self.opponents or weights.shape != (len(self.opponents),):
            raise ValueError(f"a pool needs one weight for each opponent, got {len(self.opponents)} and {weights.size}")
        if not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"a pool's weights must be at least 0 and not all 0, got {self.weights}")

    def respond(self, prompts: Sequence[str], key: Rows) -> list[Sequence[int]]:
        """Returns the response of one of them to each prompt."""
        chosen = choose(self._chances(), key.uniform(k=_PICK, l=np.arange(len(prompts))))
        responses: list[Any] = [()] * len(prompts)
        for i in np.unique(chosen).tolist():
            rows = np.flatnonzero(chosen == i)
            answers = self.opponents[i].respond([prompts[row] for row in rows.tolist()], key.some(rows))
            for row, response in zip(rows.tolist(), answers, strict=True):
                responses[row] = response
        return responses

    def _chances(self) -> NDArray[np.float64]:
        return np.ones(len(self.opponents)) if self.weights is None else np.asarray(self.weights, dtype=np.float64)


def opponent(of: Any, task: Task, rules: Rules) -> Opponent:
    """Returns an opponent.

    Args:
        of: "uniform"; a list of response texts; a policy, anything with `draw(prompts, n, key)`; a Stable-Baselines3
            model of the same task; or an `Opponent`.
        task: of the duel.
        rules: its token rules.

    Raises:
        ValueError: if it is none of these, or a response or a model does not fit the task.
    """
    if isinstance(of, str) and of == "uniform":
        return Uniform(rules)
    if isinstance(of, Opponent):
        return of
    if hasattr(of, "draw"):
        return PolicyOpponent(of)
    if hasattr(of, "policy_class") and hasattr(of, "observation_space"):
        from envs.token_duel.sb3_opponent import ModelOpponent

        model: Any = of
        return ModelOpponent(model, task, rules)
    if isinstance(of, (list, tuple)) and of and all(isinstance(text, str) for text in of):
        return Fixed([tokens_of(text, task, rules) for text in of])
    raise ValueError(
        f"an opponent is 'uniform', a list of response texts, a policy with draw(), a Stable-Baselines3 model, or an "
        f"object with respond(), got {of!r}"
    )


class OpponentSeat:
    """The seat of an opponent in N duels.

    Uniform and fixed opponents never change: their responses are drawn some episodes ahead.

    Args:
        of: as `opponent` takes it.
        duels: the duels, whose task, rules and prompts count.

    Raises:
        ValueError: as `opponent`.
    """

    def __init__(self, of: Any, duels: TokenDuels) -> None:
        self.opponent, self._duels = opponent(of, duels.task, duels.rules), duels
        self._lookahead = Lookahead(duels.size, self._ahead) if isinstance(self.opponent, Uniform | Fixed) else None

    def responses(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Returns [M, T] the tokens of the response in each of these duels' present episodes, EOS from its end on.

        Raises:
            ValueError: if the opponent does not return one response for each prompt, or naming the first token that
                is illegal at its place.
        """
        seeds, episodes = self._duels.seeds[rows], self._duels.episodes[rows]
        if self._lookahead is not None:
            return self._lookahead.values(rows, seeds, episodes)
        task = self._duels.task
        prompts = [task.prompts[i] for i in self._duels.prompts[rows].tolist()]
        responses = self.opponent.respond(prompts, Rows(seeds=seeds, episode=episodes, stream=Stream.OPPONENT))
        if len(responses) != len(prompts):
            raise ValueError(
                f"an opponent must return one response for each of {len(prompts)} prompts, got {len(responses)}"
            )
        return response_board(responses, task, self._duels.rules, "the opponent's response")

    def _ahead(self, seeds: NDArray, episodes: NDArray) -> NDArray[np.int64]:
        """Returns [M, A, T] the responses of an opponent that ignores prompts."""
        key = Rows(
            seeds=np.broadcast_to(seeds, episodes.shape).ravel(), episode=episodes.ravel(), stream=Stream.OPPONENT
        )
        responses = self.opponent.respond([""] * episodes.size, key)
        board = response_board(responses, self._duels.task, self._duels.rules, "the opponent's response")
        return board.reshape(*episodes.shape, -1)
