"""Legal tokens and ends of responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from preference_duel.transfer import all_to_device


class Constraints(Protocol):
    """Legal tokens and ends; the state of an unfinished response is one integer."""

    @property
    def first(self) -> int:
        """The state before any token."""
        ...

    @property
    def limit(self) -> int:
        """Largest number of tokens of a response."""
        ...

    def legal(self, states: Tensor) -> Tensor:
        """Returns [R, V] bool (or [1, V] if all rows agree): the tokens that may come next."""
        ...

    def follow(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Returns [R] the states after these tokens."""
        ...

    def ended(self, states: Tensor) -> Tensor:
        """Returns [R] bool: True if the response is complete."""
        ...

    def same_as(self, other: object) -> bool:
        """Returns whether the same tokens may be written in the same states."""
        ...


class _Masks(NamedTuple):
    """Masks [2, V] bool of the vocabulary, before and after an end is legal, and [V] of ends."""

    legal: Tensor
    ends: Tensor


@dataclass(frozen=True, eq=False)
class TextConstraints:
    """Free text: a state counts the tokens so far, and is -1 after one that ends the response.

    Attributes:
        words: [V] bool on the CPU, tokens that are legal anywhere in a response.
        eos: the token that ends one.
        min_tokens: number of other tokens before EOS is legal.
        limit: number of tokens after which a response is complete without EOS.
        further_ends: other tokens that end one, treated as EOS is.
    """

    words: Tensor
    eos: int
    min_tokens: int
    limit: int
    further_ends: frozenset[int] = frozenset()
    first: int = 0
    _masks: dict[torch.device, _Masks] = field(default_factory=dict, init=False, repr=False)
    """Those of each device that asked, copied there once."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: it is immutable, and copies of a policy share it."""
        return self

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a response, in order."""
        return sorted({self.eos, *self.further_ends})

    def same_as(self, other: object) -> bool:
        """Returns whether the same tokens may be written in the same states."""
        return isinstance(other, TextConstraints) and (
            (self.end_ids, self.min_tokens, self.limit) == (other.end_ids, other.min_tokens, other.limit)
            and torch.equal(self.words, other.words)
        )

    def legal(self, states: Tensor) -> Tensor:
        """Returns [R, V] bool, or [1, V] if all rows are known to agree."""
        legal = self._masks_on(states.device).legal
        if self.min_tokens == 0:
            return legal[1:]
        late = states >= self.min_tokens
        if late.device.type == "cpu" and (late.all() or not late.any()):  # a device would be waited for
            return legal[late[:1].long()]
        return legal.index_select(0, late.long())

    def follow(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Returns [R] states."""
        return torch.where(self._masks_on(tokens.device).ends[tokens], -1, states + 1)

    def ended(self, states: Tensor) -> Tensor:
        """Returns [R] bool."""
        return (states < 0) | (states >= self.limit)

    def _masks_on(self, device: torch.device) -> _Masks:
        if device not in self._masks:
            ends = torch.zeros_like(self.words).index_fill(0, torch.tensor(self.end_ids), True)
            legal = torch.stack([self.words & ~ends, self.words | ends])
            self._masks[device] = _Masks(*all_to_device([legal, ends], device))
        return self._masks[device]


def walk(constraints: Constraints, tokens: Tensor) -> Tensor:
    """Returns [R, T] the state before each of the tokens [R, T]."""
    states = [torch.full_like(tokens[:, 0], constraints.first)]
    for t in range(tokens.shape[1] - 1):
        states.append(constraints.follow(states[-1], tokens[:, t]))
    return torch.stack(states, dim=1)
