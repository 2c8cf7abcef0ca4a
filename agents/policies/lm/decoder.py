"""Contracts of policies that write token by token, and of their decoders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.policies.lm.constraints import Constraints
from preference_duel.types import Completion


class Decoder(Protocol):
    """A batch of unfinished responses."""

    def logits(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32: processed logits of the next token, -inf if it is illegal."""
        ...

    def append(self, tokens: Tensor) -> None:
        """Appends one token [R] to every response."""
        ...

    def select(self, rows: Tensor) -> None:
        """Goes on with these responses only; a row that is named twice is doubled."""
        ...


@runtime_checkable
class Autoregressive(Protocol):
    """A policy that writes token by token; `generation.draw` samples from it and `scoring.token_logprob` scores."""

    @property
    def constraints(self) -> Constraints:
        """Legal tokens and ends."""
        ...

    @property
    def micro_tokens(self) -> int:
        """Tokens in one forward pass with gradients, >= 1."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        ...

    @property
    def sharded(self) -> bool:
        """True if parameters are sharded over processes, which then must learn in equally many passes."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Gathers sharded parameters inside the block, for any number of passes without gradients."""
        ...

    @property
    def truncates(self) -> bool:
        """True if some legal tokens get probability 0."""
        ...

    def decoder(self, prompts: Sequence[str], rows: Sequence[int]) -> Decoder:
        """Starts one response to `prompts[i]` for each i of `rows`."""
        ...

    def logits(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32: a decoder's logits before each of the M tokens, differentiable.

        Args:
            prompts: R prompts.
            tokens: R responses, M tokens in all.
        """
        ...

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats: the log-probability of each of the M tokens of R responses, differentiable."""
        ...

    def prompt_length(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt."""
        ...

    def completions(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Returns the responses of these tokens."""
        ...

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens of a response in this policy's vocabulary."""
        ...
