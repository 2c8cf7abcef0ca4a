"""Prompts and whole responses as token arrays: padding, legality, phases."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.tasks.task import Task
from envs.token_duel.rules import ENDED, Rules

Responses = Sequence[Sequence[int]] | NDArray[np.int64]


def response_board(responses: Responses, task: Task, rules: Rules, name: str) -> NDArray[np.int64]:
    """Stacks responses into an array and checks that the rules allow them.

    Args:
        responses: B lists of ids, or an array [B, T]; EOS may follow a response's end.
        task: of the duel.
        rules: its token rules.
        name: of the responses, for the message.

    Returns:
        [B, T] token ids, EOS from a response's end on.

    Raises:
        ValueError: naming the first token that is illegal at its place.
    """
    count, limit = len(responses), len(rules.by_step) - 1
    if isinstance(responses, np.ndarray) and responses.shape == (count, limit):
        board, lengths = responses.astype(np.int64, casting="safe"), np.full(count, limit)
    else:
        board, lengths = np.full((count, limit), rules.eos), np.empty(count, np.int64)
        for row, response in enumerate(responses):
            lengths[row] = len(response)
            board[row, : len(response)] = [operator.index(token) for token in response[:limit]]
    if not _allowed(board, lengths, rules):
        for response in responses:
            _require_allowed(response, task, rules, name)
    return board


def phases(board: NDArray[np.int64], rules: Rules) -> NDArray[np.int64]:
    """Returns [B, T] the phase in which each token of `response_board` was played."""
    phase = np.empty_like(board)
    phase[:, 0] = rules.by_step[0]
    for step in range(1, board.shape[1]):
        phase[:, step] = np.maximum(rules.after[phase[:, step - 1], board[:, step - 1]], rules.by_step[step])
    return phase


def prompt_tokens(prompt: str, task: Task, rules: Rules) -> NDArray[np.int64]:
    """Returns [P] a prompt's tokens, left-padded.

    Raises:
        ValueError: if it has no token, or more than P.
    """
    tokens, width = task.tokenizer.encode(prompt), task.max_prompt_tokens
    if not 0 < len(tokens) <= width:
        raise ValueError(
            f"prompt {prompt!r} has {len(tokens)} tokens, expected 1 to {width} (the task's max_prompt_tokens)"
        )
    return np.array([rules.fill] * (width - len(tokens)) + tokens)


def tokens_of(text: str, task: Task, rules: Rules) -> tuple[int, ...]:
    """Returns the tokens of a response's text, EOS at the end if there is room.

    Raises:
        ValueError: if the rules do not allow it.
    """
    tokens = task.tokenizer.encode(text)
    if len(tokens) > task.max_new_tokens:
        raise ValueError(f"the response {text!r} is longer than the limit of {task.max_new_tokens} tokens")
    whole = tuple([*tokens, rules.eos][: task.max_new_tokens])
    _require_allowed(whole, task, rules, f"the response {text!r}")
    return whole


def _allowed(board: NDArray[np.int64], lengths: NDArray[np.int64], rules: Rules) -> bool:
    """Returns whether every row is a whole response: it ended within its length, and nothing but EOS follows."""
    limit = board.shape[1]
    if lengths.max() > limit or board.min() < 0 or board.max() >= rules.vocab_size:
        return False
    phase = phases(board, rules)
    return bool(rules.masks[phase, board].all() and ((phase == ENDED) | (np.arange(limit) < lengths[:, None])).all())


def _require_allowed(response: Sequence[int], task: Task, rules: Rules, name: str) -> None:
    """Raises ValueError, naming the first token that is illegal at its place, unless this is a whole response."""
    phase, limit = int(rules.by_step[0]), len(rules.by_step) - 1
    for step, token in enumerate(response, start=1):
        if step > limit or (phase == ENDED and token != rules.eos):
            raise ValueError(f"{name} goes on after its end: token {step} of {len(response)}")
        if not (0 <= token < rules.vocab_size and rules.masks[phase, token]):
            text = f" ({task.tokenizer.decode([int(token)])!r})" if 0 <= token < rules.vocab_size else ""
            raise ValueError(
                f"{name} is none of task '{task.name}': token {token}{text} may not stand at place {step}; does it "
                f"come from another vocabulary?"
            )
        phase = max(int(rules.after[phase, token]), int(rules.by_step[step]))
    if phase != ENDED:
        raise ValueError(f"{name} does not end: its {len(response)} tokens are neither the limit nor closed by EOS")
