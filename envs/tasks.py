"""Tasks: where prompts come from, and what a response may be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from envs.tokens import Tokenizer
from envs.types import Completion


@dataclass(frozen=True)
class Task:
    """Prompts, a tokenizer and limits; a finite task also lists every possible response.

    Attributes:
        name: what the log calls it.
        prompts: the training prompts.
        held_out: the prompts of evaluation; the same where there is only one set.
        tokenizer: the vocabulary of the token-level game.
        max_prompt_tokens: the longest prompt, in tokens.
        max_new_tokens: the response's limit, in tokens, its EOS included.
        min_new_tokens: EOS is illegal before so many other tokens.
        response_tokens: [V] bool, ids that may stand in a response; EOS is governed by `min_new_tokens`.
        responses: every possible response, the same for every prompt; None where the task is not finite.
        prob: [N, N] or [X, N, N] the game's own payoff where its file gives one.
        cut: how many prompts were cut to `max_prompt_tokens`.
    """

    name: str
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    tokenizer: Tokenizer
    max_prompt_tokens: int
    max_new_tokens: int
    min_new_tokens: int
    response_tokens: NDArray[np.bool_]
    responses: tuple[Completion, ...] | None = None
    prob: Tensor | None = None
    cut: int = 0

    @cached_property
    def all_prompts(self) -> tuple[str, ...]:
        """Training and held-out prompts, each once."""
        return tuple(dict.fromkeys(self.prompts + self.held_out))

    @cached_property
    def response_texts(self) -> tuple[str, ...]:
        """The texts of `responses`.

        Raises:
            ValueError: if the task is not finite.
        """
        if self.responses is None:
            raise ValueError(f"task '{self.name}' lists no responses; use 'symbols' or a finite game's FILE.json")
        return tuple(response.text for response in self.responses)


def make_task(name: str, *, tokenizer: Tokenizer | None = None, **fields: object) -> Task:
    """Builds a task: "chat", "symbols", FILE.jsonl, FILE.json, "hf:DATASET", or "module:Config"."""
    raise NotImplementedError
