"""The law between two laws, pi^(1-b) ref^b renormalised: of tables for each response, of others for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.policies.lm.constraints import Rules
from agents.policies.lm.decoder import Autoregressive, Reader
from agents.policies.lm.scoring import chosen
from agents.policies.tabular import Cells
from preference_duel.types import Completion


@runtime_checkable
class Table(Protocol):
    """A law over the listed responses of a finite task."""

    @property
    def cells(self) -> Cells:
        """What rows and columns stand for."""
        ...

    def log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N]."""
        ...


@dataclass(frozen=True)
class ByResponse:
    """The geometric mixture of two tables, a table."""

    pi: Table
    ref: Table
    b: float

    @property
    def cells(self) -> Cells:
        """What rows and columns stand for."""
        return self.pi.cells

    def log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N]."""
        return mix(self.pi.log_probs(prompts), self.ref.log_probs(prompts), self.b).log_softmax(-1)

    def require_same(self) -> None:
        """Raises ValueError if the tables list other responses."""
        if self.pi.cells.columns != self.ref.cells.columns:
            raise ValueError("the two tables list other responses; are they of one task?")


@dataclass(frozen=True)
class ByToken:
    """The geometric mixture of two token by token policies, which is one: `Autoregressive`."""

    pi: Autoregressive
    ref: Autoregressive
    b: float

    @property
    def rules(self) -> Rules:
        """What may be written."""
        return self.pi.rules

    @property
    def micro_tokens(self) -> int:
        """Tokens in one pass that learns."""
        return min(self.pi.micro_tokens, self.ref.micro_tokens)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.pi.device

    @property
    def sharded(self) -> bool:
        """True where the parameters of either are spread over processes."""
        return self.pi.sharded or self.ref.sharded

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gathers the parameters of both inside the block."""
        with self.pi.gathered(), self.ref.gathered():
            yield

    @property
    def truncates(self) -> bool:
        """Never: its parts may not."""
        return False

    def reader(self, prompts: Sequence[str], rows: Sequence[int]) -> Reader:
        """Starts the same responses with both."""
        return PairReader(self.pi.reader(prompts, rows), self.ref.reader(prompts, rows), self.b)

    def scores(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32, differentiable."""
        return mix(self.pi.scores(prompts, tokens), self.ref.scores(prompts, tokens), self.b)

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats, differentiable."""
        return chosen(self.scores(prompts, tokens), tokens)

    def prompt_length(self, prompt: str) -> int:
        """Returns how many tokens a prompt has."""
        return self.pi.prompt_length(prompt)

    def completions(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Returns the responses that these tokens are."""
        return self.pi.completions(tokens)

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens by which a response is written."""
        return self.pi.tokens_of(response)

    def require_same(self) -> None:
        """Raises ValueError if the two could not write the same responses."""
        if self.pi.truncates or self.ref.truncates:
            raise ValueError(
                "a Geometric mixture takes policies with top_p=1 and top_k=0; of others nothing may be left"
            )
        if not self.pi.rules.same_as(self.ref.rules):
            raise ValueError("the two policies have other limits or legal tokens; build them for the same task")


@dataclass(frozen=True)
class PairReader:
    """Writes the same responses with two readers."""

    pi: Reader
    ref: Reader
    b: float

    def scores(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32."""
        return mix(self.pi.scores(states), self.ref.scores(states), self.b)

    def append(self, tokens: Tensor) -> None:
        """Writes one more token [R] to every response."""
        self.pi.append(tokens)
        self.ref.append(tokens)

    def keep(self, rows: Tensor) -> None:
        """Forgets all responses but these."""
        self.pi.keep(rows)
        self.ref.keep(rows)


def mix(first: Tensor, second: Tensor, b: float) -> Tensor:
    """Returns (1-b) first + b second; the ends apart, where 0 times -inf would spoil it."""
    if b in (0, 1):
        return second if b else first
    return (1 - b) * first + b * second.to(first)
