"""Token strings as a trie: each beginning once, and sums over the strings that share it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

END = -1
"""Closes a string that is the beginning of another."""


class Trie:
    """The M beginnings of N distinct strings; number 0 is the empty one, and edge e leads to number e + 1.

    Attributes:
        paths: [N, T + 1] the beginnings of each string, the empty one first; after its end the whole string.
        parents: [M - 1] what each edge continues.
        tokens: [M - 1] the token of each edge, as a column of `children`.
        children: [M, V] what each of the V tokens that occur makes of a beginning; -1 if no string goes on so.

    Args:
        strings: token strings. One that is the beginning of another gets an end as its last token.

    Raises:
        ValueError: if two strings are equal.
    """

    def __init__(self, strings: Sequence[Sequence[int]]) -> None:
        inner = {tuple(string[:t]) for string in strings for t in range(len(string))}
        closed = [(*string, END) if tuple(string) in inner or not string else tuple(string) for string in strings]
        if len(set(closed)) < len(closed):
            raise ValueError(f"two of the {len(closed)} strings are equal; list each response once")
        columns = {
            token: column for column, token in enumerate(sorted({token for string in closed for token in string}))
        }
        longest = max(map(len, closed))
        numbers: dict[tuple[int, int], int] = {}
        paths = []
        for string in closed:
            path = [0]
            for token in string:
                path.append(numbers.setdefault((path[-1], columns[token]), len(numbers) + 1))
            paths.append(path + path[-1:] * (longest + 1 - len(path)))
        edges = torch.tensor(list(numbers))
        self.paths = torch.tensor(paths)
        self.parents, self.tokens = edges.unbind(1)
        self.children = torch.full((len(numbers) + 1, len(columns)), -1)
        self.children[self.parents, self.tokens] = torch.arange(1, len(numbers) + 1)
        fresh = torch.ones_like(self.paths, dtype=torch.bool)
        fresh[:, 1:] = self.paths[:, 1:] != self.paths[:, :-1]  # not after a string's end
        self._strings, places = fresh.nonzero(as_tuple=True)
        self._beginnings = self.paths[self._strings, places]

    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns [..., M] for each beginning the log of the sum of exp over its strings, differentiable.

        Args:
            values: [..., N] finite, of the strings; log-probabilities give those of the beginnings.
        """
        spread, beginnings = values[..., self._strings], self._beginnings.to(values.device)
        index = beginnings.expand(spread.shape)
        shape = (*values.shape[:-1], len(self.children))
        largest = spread.new_full(shape, -torch.inf).scatter_reduce(-1, index, spread.detach(), "amax")
        sums = spread.new_zeros(shape).scatter_add(-1, index, (spread - largest[..., beginnings]).exp())
        return largest + sums.log()

    def next_logits(self, log_probs: Tensor) -> Tensor:
        """Returns [..., M - 1, V] the log-probability of every token where each edge begins; -inf if none is there.

        Args:
            log_probs: [..., N] of the strings.
        """
        reached = self.logsumexp(log_probs)
        children = self.children.to(reached.device)
        joint = reached[..., children.clamp(min=0)].masked_fill(children < 0, -torch.inf)
        return (joint - reached[..., None])[..., self.parents, :]

    def along(self, values: Tensor) -> Tensor:
        """Returns [..., N] the sum of values [..., M - 1] of the edges over those of each string."""
        edges = self._beginnings > 0
        terms = values[..., self._beginnings[edges] - 1]
        return terms.new_zeros(*values.shape[:-1], len(self.paths)).index_add(
            -1, self._strings[edges].to(terms.device), terms
        )
