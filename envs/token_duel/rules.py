"""A task's token rules as lookup tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from envs.tasks.task import Task
from envs.tasks.tokenizers import end_ids

MUST_CONTINUE, MAY_END, ENDED = range(3)
"""Phases of a response, in order: EOS is illegal; EOS is legal; it has ended, and only EOS is legal."""


@dataclass(frozen=True)
class Rules:
    """Legality and effect of every token in every phase.

    Attributes:
        eos: the token that fills a board after the end of a response.
        is_end: [V] bool, the tokens that end a response, EOS among them.
        fill: id of unused positions: PAD, or V if the vocabulary has none.
        masks: [3, V] int8, 1 if a token is legal in a phase.
        written: [3, V] int64, the token that is recorded: itself; for an illegal one EOS if EOS is legal, else the
            smallest legal token; `fill` once the response has ended.
        after: [3, V] int64, the least next phase: ENDED if the token ends the response, else MUST_CONTINUE.
        by_step: [T + 1] int64, the least phase after so many tokens.
        legal: [3, V] int64, the legal tokens of a phase in order, then the others.
        legal_count: [3] number of legal tokens of a phase.
    """

    eos: int
    is_end: NDArray[np.bool_]
    fill: int
    masks: NDArray[np.int8]
    written: NDArray[np.int64]
    after: NDArray[np.int64]
    by_step: NDArray[np.int64]
    legal: NDArray[np.int64]
    legal_count: NDArray[np.int64]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.masks.shape[1]

    @property
    def largest_token(self) -> int:
        """The largest id on a board: the vocabulary's last, or the filler beyond it."""
        return max(self.fill, self.vocab_size - 1)

    @classmethod
    def of(cls, task: Task) -> Self:
        """Builds the tables.

        Raises:
            ValueError: if the limits or the response tokens leave no game.
        """
        tokenizer, size = task.tokenizer, task.tokenizer.vocab_size
        eos, pad = tokenizer.eos_id, tokenizer.pad_id
        is_end = np.isin(np.arange(size), end_ids(tokenizer))
        before_end = _legal_before_end(task)
        masks = np.stack([before_end, before_end, np.zeros(size, np.int8)])
        masks[MAY_END, is_end] = 1
        masks[ENDED, eos] = 1
        ids = np.arange(size)
        fill = size if pad is None or pad == eos else pad
        written = np.stack(
            [
                np.where(masks[MUST_CONTINUE], ids, before_end.argmax()),
                np.where(masks[MAY_END], ids, eos),
                np.full(size, fill),
            ]
        )
        after = np.where(np.isin(written, end_ids(tokenizer)), ENDED, MUST_CONTINUE)
        after[ENDED] = ENDED
        by_step = np.where(np.arange(task.max_new_tokens + 1) < task.min_new_tokens, MUST_CONTINUE, MAY_END)
        by_step[-1] = ENDED
        legal = np.argsort(masks == 0, axis=1, kind="stable")
        return cls(eos, is_end, fill, masks, written, after, by_step, legal, masks.sum(axis=1, dtype=np.int64))


def _legal_before_end(task: Task) -> NDArray[np.int8]:
    """Returns [V] 1 for the tokens that are legal before EOS is."""
    tokenizer, tokens = task.tokenizer, np.asarray(task.response_tokens)
    if tokens.shape != (tokenizer.vocab_size,):
        raise ValueError(f"response_tokens must be ({tokenizer.vocab_size},), one per token, got {tokens.shape}")
    if not 0 <= task.min_new_tokens <= task.max_new_tokens or task.max_new_tokens < 1:
        raise ValueError(
            f"limits must have 0 <= min_new_tokens <= max_new_tokens and max_new_tokens >= 1, "
            f"got {task.min_new_tokens} and {task.max_new_tokens}"
        )
    legal = tokens.astype(np.int8)
    legal[[i for i in (*end_ids(tokenizer), tokenizer.pad_id) if i is not None]] = 0
    if not legal.any():
        raise ValueError(f"task '{task.name}' allows no token but EOS and PAD in a response; see response_tokens")
    return legal
