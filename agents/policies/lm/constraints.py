"""Which tokens may stand in a response, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Rules(Protocol):
    """Which tokens may stand in a response and where it ends; a response's state is one integer."""

    @property
    def first(self) -> int:
        """The state before any token."""
        ...

    @property
    def limit(self) -> int:
        """The most tokens that a response has."""
        ...

    def legal(self, states: Tensor) -> Tensor:
        """Returns [R, V] bool (or [1, V] where all rows agree): the tokens that may come next."""
        ...

    def follow(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Returns [R] the states after these tokens."""
        ...

    def ended(self, states: Tensor) -> Tensor:
        """Returns [R] bool: True where the response is complete."""
        ...

    def same_as(self, other: object) -> bool:
        """Returns whether the same tokens may be written in the same states."""
        ...


@dataclass(frozen=True, eq=False)
class TextRules:
    """Free text: a state counts the tokens so far, and is -1 after EOS.

    Attributes:
        words: [V] bool, tokens that may stand in a response at any place.
        eos: the token that ends one.
        fewest: EOS is illegal before so many other tokens.
        limit: after so many tokens a response is complete without EOS.
    """

    words: Tensor
    eos: int
    fewest: int
    limit: int
    first: int = 0

    def same_as(self, other: object) -> bool:
        """Returns whether the same tokens may be written in the same states."""
        return isinstance(other, TextRules) and (
            (self.eos, self.fewest, self.limit) == (other.eos, other.fewest, other.limit)
            and torch.equal(self.words.cpu(), other.words.cpu())
        )

    def legal(self, states: Tensor) -> Tensor:
        """Returns [R, V] bool."""
        words = self.words.to(states.device)
        is_eos = torch.arange(len(words), device=states.device) == self.eos
        if self.fewest == 0:
            return (words | is_eos)[None]
        return (words & ~is_eos) | (is_eos & (states >= self.fewest)[:, None])

    def follow(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Returns [R] states."""
        return torch.where(tokens == self.eos, -1, states + 1)

    def ended(self, states: Tensor) -> Tensor:
        """Returns [R] bool."""
        return (states < 0) | (states >= self.limit)


def walk(rules: Rules, tokens: Tensor) -> Tensor:
    """Returns [R, T] the state before each of the tokens [R, T]."""
    states = [torch.full_like(tokens[:, 0], rules.first)]
    for t in range(tokens.shape[1] - 1):
        states.append(rules.follow(states[-1], tokens[:, t]))
    return torch.stack(states, dim=1)
