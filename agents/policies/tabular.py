"""A softmax over a finite task's responses: the policy of matrix games."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from envs.games.tries import Trie
from envs.tasks.task import Task
from preference_duel.keyed_random import Key
from preference_duel.keyed_random_torch import choose
from preference_duel.protocols import Policy, TokenTerm
from preference_duel.types import Completion


class TabularPolicy(Policy):
    """Independent float64 logits for each prompt and response, on the CPU.

    Args:
        task: a finite task.
        probs: [N] or [X, N] initial probabilities, all positive; None: uniform. X counts `task.all_prompts`.
        exact: whether `draw` lists all responses.

    Raises:
        ValueError: if the task is not finite or `probs` does not fit it.
    """

    learning_rate = 0.03
    replicas: int = 1
    """Independent tables whose rows follow one another, see `agents.policies.replicas`."""

    def __init__(self, task: Task, probs: Tensor | None = None, exact: bool = False) -> None:
        super().__init__()
        self.cells = Cells(task)
        shape = (len(self.cells.rows), len(self.cells.columns))
        start = torch.full(shape, 1 / shape[1], dtype=torch.float64) if probs is None else _start(probs, shape)
        self.exact = exact
        self.logits = nn.Parameter(start.log())

    def log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N] the log-probability of every response."""
        return torch.log_softmax(self.logits[self.cells.rows_of(prompts)], dim=-1)

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples by inversion of the cumulative distribution, one uniform for each response."""
        return self.cells.draw(self.log_probs(prompts), None if self.exact else n, key)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        return self.cells.pick(self.log_probs(prompts), responses)

    def token_terms(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[Completion]],
        term: TokenTerm,
        reference: Policy | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities [B, K] and the sums [B, K] of a term; tokens are those of the task's vocabulary.

        The logits of a token are the log-probabilities of what may come next, given the beginning before it.

        Raises:
            TypeError: if the reference is no table.
        """
        if not isinstance(reference, TabularPolicy | None):
            raise TypeError(f"the reference of a table must be a table, got {type(reference).__name__}")
        trie, log_probs = self.cells.trie, self.log_probs(prompts)
        with torch.no_grad():
            base = None if reference is None else trie.next_logits(reference.log_probs(prompts)).flatten(0, 1)
        logits = trie.next_logits(log_probs)  # [B, E, V], for each edge of the trie
        edges = term(logits.flatten(0, 1), base, trie.tokens.repeat(len(logits))).view(logits.shape[:2])
        return self.cells.pick(log_probs, responses), self.cells.pick(trie.along(edges), responses)

    def length(self, response: Completion) -> int:
        """Returns the number of tokens of a listed response in the task's vocabulary."""
        return len(self.cells.responses[self.cells.column(response.text)].ids)

    def blend(self, other: Policy, weight: float) -> None:
        """Averages probabilities."""
        if not isinstance(other, TabularPolicy) or other.cells.columns != self.cells.columns:
            raise TypeError(f"a table can be averaged with one of the same responses, got {type(other).__name__}")
        with torch.no_grad():
            mine, theirs = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
            share = torch.tensor([1 - weight, weight], dtype=mine.dtype).log()
            self.logits.copy_(torch.logaddexp(mine + share[0], theirs + share[1]))

    def save(self, directory: Path) -> None:
        """Writes probs.json: prompt -> response -> probability."""
        with torch.no_grad():
            probs = self.logits.softmax(-1).tolist()
        table = {p: dict(zip(self.cells.columns, probs[i], strict=True)) for p, i in self.cells.rows.items()}
        (directory / "probs.json").write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")


class Cells:
    """Rows and columns of a table over a finite task.

    Attributes:
        responses: the listed responses, in the columns' order.
        rows: prompt -> row.
        columns: response's text -> column.
    """

    def __init__(self, task: Task) -> None:
        self.columns = {text: i for i, text in enumerate(task.response_texts)}
        self.responses = list(task.responses or ())
        self.rows = {prompt: i for i, prompt in enumerate(task.all_prompts)}

    @cached_property
    def trie(self) -> Trie:
        """The beginnings of the responses, in the task's tokens."""
        return Trie([response.ids for response in self.responses])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: it is immutable, and copies of a policy share it."""
        return self

    def rows_of(self, prompts: Sequence[str]) -> list[int]:
        """Returns the row of each prompt.

        Raises:
            ValueError: with the first unknown prompt.
        """
        missing = [prompt for prompt in prompts if prompt not in self.rows]
        if missing:
            raise ValueError(f"the table has no row for the prompt {missing[0]!r}; it knows {len(self.rows)} prompts")
        return [self.rows[prompt] for prompt in prompts]

    def draw(self, log_probs: Tensor, n: int | None, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples n responses from each row of log_probs [B, N]; None lists them all with their probabilities."""
        log_probs = log_probs.detach()
        if n is None:
            return [self.responses] * len(log_probs), log_probs.exp()
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(log_probs))[:, None])
        chosen = choose(log_probs.softmax(-1), torch.from_numpy(uniforms))
        drawn = [[self.responses[i] for i in row] for row in chosen.tolist()]
        return drawn, torch.full(chosen.shape, 1 / n, dtype=torch.float64)

    def pick(self, log_probs: Tensor, responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] the entries of log_probs [B, N] of these responses.

        Raises:
            ValueError: with the first response that the task does not list.
        """
        if all(row is self.responses for row in responses):
            return log_probs
        columns = [[self.column(response.text) for response in row] for row in responses]
        return log_probs.gather(1, torch.tensor(columns))

    def column(self, text: str) -> int:
        """Returns the column of a response.

        Raises:
            ValueError: if the task does not list it.
        """
        if text not in self.columns:
            raise ValueError(f"the task has no response {text!r}; it lists {len(self.columns)} responses")
        return self.columns[text]


def _start(probs: Tensor, shape: tuple[int, int]) -> Tensor:
    probs = torch.as_tensor(probs, dtype=torch.float64)
    if probs.shape[-1:] != shape[-1:] or probs.ndim > 2 or (probs.ndim == 2 and probs.shape != shape):
        raise ValueError(f"probs must be {shape[-1:]} or {shape}, got {tuple(probs.shape)}")
    if not (probs > 0).all() or (probs.sum(-1) - 1).abs().max() > 1e-8:
        raise ValueError("probs must be positive and sum to 1; a softmax cannot start at 0")
    return probs.expand(shape)
