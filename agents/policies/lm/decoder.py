"""What is asked of a policy that writes token by token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.policies.lm.constraints import Rules
from preference_duel.types import Completion


class Reader(Protocol):
    """A batch of responses under way."""

    def scores(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32: the next token's log-law up to a constant of each row, -inf where illegal."""
        ...

    def append(self, tokens: Tensor) -> None:
        """Writes one more token [R] to every response."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Forgets all responses but these."""
        ...


@runtime_checkable
class Autoregressive(Protocol):
    """A policy that writes token by token; the functions of this module draw from it."""

    @property
    def rules(self) -> Rules:
        """What may be written."""
        ...

    @property
    def micro_tokens(self) -> int:
        """Tokens in one pass that learns, >= 1."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        ...

    @property
    def sharded(self) -> bool:
        """True where parameters are spread over processes, which then must learn in equally many passes."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Gathers parameters inside the block, so that this process reads as often as it likes."""
        ...

    @property
    def truncates(self) -> bool:
        """True where some legal tokens get probability 0."""
        ...

    def reader(self, prompts: Sequence[str], rows: Sequence[int]) -> Reader:
        """Starts one response to `prompts[i]` for each i of `rows`."""
        ...

    def scores(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32: the scores that a reader would give before each of the M tokens, differentiable.

        Args:
            prompts: R prompts.
            tokens: R responses, M tokens in all.
        """
        ...

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats: the log-probability of each of the M tokens of R responses, differentiable."""
        ...

    def prompt_length(self, prompt: str) -> int:
        """Returns how many tokens a prompt has."""
        ...

    def completions(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Returns the responses that these tokens are."""
        ...

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens by which this policy writes a response."""
        ...
