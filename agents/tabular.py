"""A softmax over a finite task's responses: the policy of matrix games."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from agents.base import Policy
from envs.keyed import Key
from envs.tasks import Task
from envs.types import Completion


@dataclass(frozen=True)
class TabularConfig:
    """A table of logits, one row for each prompt of a finite task."""

    exact: bool = False
    """Draw every response with its probability as weight, instead of samples."""

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> TabularPolicy:
        """Builds the policy, uniform at the start."""
        del device, seed  # a table is small and starts where it is told
        return TabularPolicy(task, exact=self.exact)


class TabularPolicy(Policy):
    """Independent float64 logits for each prompt and response, on the CPU.

    Args:
        task: a finite task.
        probs: [N] or [X, N] where it starts, all positive; None: uniform. X counts `task.all_prompts`.
        exact: whether `draw` lists the whole law.

    Raises:
        ValueError: if the task is not finite or `probs` does not fit it.
    """

    def __init__(self, task: Task, probs: Tensor | None = None, exact: bool = False) -> None:
        super().__init__()
        texts = task.response_texts
        shape = (len(task.all_prompts), len(texts))
        start = torch.full(shape, 1 / shape[1], dtype=torch.float64) if probs is None else _start(probs, shape)
        self.exact = exact
        self.responses = list(task.responses or ())
        self.logits = nn.Parameter(start.log())
        self._row = {prompt: i for i, prompt in enumerate(task.all_prompts)}
        self._column = {text: i for i, text in enumerate(texts)}

    def log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N] the log-probability of every response."""
        return torch.log_softmax(self.logits[self._rows(prompts)], dim=-1)

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws by inversion of the cumulative distribution, one uniform for each response."""
        with torch.no_grad():
            probs = self.log_probs(prompts).exp()
        if self.exact:
            return [self.responses] * len(prompts), probs
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(prompts))[:, None])
        edges = probs.cumsum(dim=1)
        chosen = torch.searchsorted(edges, torch.from_numpy(uniforms) * edges[:, -1:], right=True)
        chosen = chosen.clamp(max=len(self.responses) - 1)
        return [[self.responses[i] for i in row] for row in chosen.tolist()], torch.full(chosen.shape, 1 / n).double()

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        log_probs = self.log_probs(prompts)
        if all(row is self.responses for row in responses):
            return log_probs
        columns = [[self._index(response.text) for response in row] for row in responses]
        return log_probs.gather(1, torch.tensor(columns))

    def blend(self, other: Self, weight: float) -> None:
        """Averages probabilities."""
        with torch.no_grad():
            mine, theirs = self.logits.log_softmax(-1).exp(), other.logits.log_softmax(-1).exp()
            self.logits.copy_(torch.lerp(mine, theirs, weight).log())

    def save(self, directory: Path) -> None:
        """Writes probs.json: prompt -> response -> probability."""
        with torch.no_grad():
            probs = self.logits.softmax(-1).tolist()
        texts = [response.text for response in self.responses]
        table = {prompt: dict(zip(texts, probs[i], strict=True)) for prompt, i in self._row.items()}
        (directory / "probs.json").write_text(json.dumps(table, indent=1), encoding="utf-8")

    def _rows(self, prompts: Sequence[str]) -> list[int]:
        missing = [prompt for prompt in prompts if prompt not in self._row]
        if missing:
            raise ValueError(f"the table has no row for the prompt {missing[0]!r}; it knows {len(self._row)} prompts")
        return [self._row[prompt] for prompt in prompts]

    def _index(self, text: str) -> int:
        if text not in self._column:
            raise ValueError(f"the task has no response {text!r}; it lists {len(self._column)} responses")
        return self._column[text]


def _start(probs: Tensor, shape: tuple[int, int]) -> Tensor:
    probs = torch.as_tensor(probs, dtype=torch.float64)
    if probs.shape[-1:] != shape[-1:] or probs.ndim > 2 or (probs.ndim == 2 and probs.shape != shape):
        raise ValueError(f"probs must be {shape[-1:]} or {shape}, got {tuple(probs.shape)}")
    if not (probs > 0).all() or (probs.sum(-1) - 1).abs().max() > 1e-8:
        raise ValueError("probs must be positive and sum to 1; a softmax cannot start at 0")
    return probs.expand(shape)
