"""Who sits in the other seat of a one-player duel: whole responses, since neither player sees the other write."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.keyed import Key
from envs.rules import ENDED, Rules
from envs.tasks import Task

_PICK = 2**31
"""The counter k by which a pool picks; responses are drawn by k = 0."""


class Opponent(Protocol):
    """Answers prompts."""

    def respond(self, prompt: str, key: Key) -> Sequence[int]:
        """Returns the tokens of one response, its EOS included; the key names every random number."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Plays every legal token alike."""

    rules: Rules

    def respond(self, prompt: str, key: Key) -> list[int]:
        """Returns one response."""
        del prompt
        rules, phase, tokens = self.rules, int(self.rules.by_step[0]), []
        for step, chance in enumerate(key.uniform(vote=np.arange(len(rules.by_step) - 1)).tolist(), start=1):
            token = int(rules.legal[phase, int(chance * rules.legal_count[phase])])
            tokens.append(token)
            phase = max(int(rules.after[phase, token]), int(rules.by_step[step]))
            if phase == ENDED:
                break
        return tokens


@dataclass(frozen=True)
class Fixed:
    """Plays one of some responses, each as likely as the others.

    Attributes:
        responses: in tokens, each with its EOS where it ends before the limit.
    """

    responses: Sequence[Sequence[int]]

    def respond(self, prompt: str, key: Key) -> Sequence[int]:
        """Returns one of them."""
        del prompt
        return self.responses[int(key.uniform() * len(self.responses))]


@dataclass(frozen=True)
class Drawing:
    """Plays what a policy draws.

    Attributes:
        policy: has `draw(prompts, n, key)`, as `agents.Policy`; an exact one lists its law, of which one is drawn.
    """

    policy: Any

    def respond(self, prompt: str, key: Key) -> Sequence[int]:
        """Returns one draw.

        Raises:
            ValueError: if the policy's responses have no tokens.
        """
        (drawn,), (weight,) = self.policy.draw([prompt], 1, key)
        place = 0
        if len(drawn) > 1:
            edges = np.cumsum(np.asarray(weight, dtype=np.float64))
            place = int(np.searchsorted(edges, key.uniform() * edges[-1], side="right"))
        if drawn[place].tokens is None:
            raise ValueError(f"the opponent drew a response without tokens, {drawn[place].text!r}")
        return drawn[place].tokens


@dataclass(frozen=True)
class Pool:
    """Lets one of several opponents play each duel: a population, or older snapshots of oneself.

    Attributes:
        opponents: who they are.
        weights: how likely each is, at least 0, not all 0; None: all alike.
    """

    opponents: Sequence[Opponent]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Raises where opponents and weights do not fit."""
        weights = self._chances()
        if not self.opponents or weights.shape != (len(self.opponents),):
            raise ValueError(f"a pool needs one weight for each opponent, got {len(self.opponents)} and {weights.size}")
        if not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"a pool's weights must be at least 0 and not all 0, got {self.weights}")

    def respond(self, prompt: str, key: Key) -> Sequence[int]:
        """Returns the response of one of them."""
        edges = np.cumsum(self._chances())
        chosen = int(np.searchsorted(edges, key.uniform(k=_PICK) * edges[-1], side="right"))
        return self.opponents[chosen].respond(prompt, key)

    def _chances(self) -> NDArray[np.float64]:
        return np.ones(len(self.opponents)) if self.weights is None else np.asarray(self.weights, dtype=np.float64)


def opponent(of: Any, task: Task, rules: Rules) -> Opponent:
    """Returns an opponent.

    Args:
        of: "uniform"; a list of response texts; a policy, anything with `draw(prompts, n, key)`; or an `Opponent`.
        task: of the duel.
        rules: its token rules.

    Raises:
        ValueError: if it is none of these, or a response does not fit the task.
    """
    if of == "uniform":
        return Uniform(rules)
    if hasattr(of, "respond"):
        return of
    if hasattr(of, "draw"):
        return Drawing(of)
    if isinstance(of, (list, tuple)) and of and all(isinstance(text, str) for text in of):
        return Fixed([_tokens(text, task, rules) for text in of])
    raise ValueError(
        f"an opponent is 'uniform', a list of response texts, a policy with draw(), or an object with respond(), "
        f"got {of!r}"
    )


def checked(response: Sequence[int], task: Task, rules: Rules, who: str) -> tuple[int, ...]:
    """Returns a response in tokens, made sure that the rules allow it.

    Args:
        response: its tokens.
        task: of the duel.
        rules: its token rules.
        who: whose response it is, for the message.

    Raises:
        ValueError: naming the first token that may not stand where it does.
    """
    tokens, phase = tuple(operator.index(token) for token in response), int(rules.by_step[0])
    for step, token in enumerate(tokens, start=1):
        if phase == ENDED:
            raise ValueError(f"{who} goes on after its end: token {step} of {len(tokens)}")
        if not (0 <= token < rules.vocab_size and rules.masks[phase, token]):
            text = f" ({task.tokenizer.decode([token])!r})" if 0 <= token < rules.vocab_size else ""
            raise ValueError(
                f"{who} is none of task '{task.name}': token {token}{text} may not stand at place {step}; does it come "
                f"from another vocabulary?"
            )
        phase = max(int(rules.after[phase, token]), int(rules.by_step[step]))
    if phase != ENDED:
        raise ValueError(f"{who} does not end: its {len(tokens)} tokens are neither the limit nor closed by EOS")
    return tokens


def _tokens(text: str, task: Task, rules: Rules) -> tuple[int, ...]:
    tokens = task.tokenizer.encode(text)
    if len(tokens) > task.max_new_tokens:
        raise ValueError(f"the response {text!r} is longer than the limit of {task.max_new_tokens} tokens")
    whole = [*tokens, rules.eos][: task.max_new_tokens]
    return checked(whole, task, rules, f"the response {text!r}")
