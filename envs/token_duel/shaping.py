"""Potential-based shaping: another oracle's verdicts, and for each token the rise of a potential."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from envs.games.soft_values import soft_values
from envs.tasks.task import Task
from preference_duel.protocols import Oracle, forget, leaves_unread

Potential = Callable[[str, tuple[int, ...]], float]
"""Returns the potential of a beginning of a response in token ids; 0 of a whole one."""


class Shaped:
    """Pays each token phi(y_<=t) - phi(y_<t) besides the verdict (Ng, Harada & Russell 1999, ICML, without a discount).

    A whole response is paid -phi() in all, whichever it is: between two players that is nothing, the sum of a
    player's rewards is that of the verdict, and no best response and no equilibrium changes.

    Args:
        inner: the oracle whose verdicts are paid.
        potential: of beginnings, 0 of whole responses, which it must recognise; `soft_potential` makes one.
    """

    def __init__(self, inner: Oracle, potential: Potential) -> None:
        self.inner, self.potential = inner, potential
        self.antisymmetric, self.leaves_unread = inner.antisymmetric, leaves_unread(inner)

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt)."""
        return self.inner.prob(prompts, first, second)

    def token_rewards(self, prompts: Sequence[str], beginnings: Sequence[Sequence[int]]) -> Tensor:
        """Returns [N] float64 the rise of the potential at each beginning's last token."""
        asked = [(prompt, tuple(tokens)) for prompt, tokens in zip(prompts, beginnings, strict=True)]
        rises = [self.potential(prompt, y) - self.potential(prompt, y[:-1]) for prompt, y in asked]
        return torch.tensor(rises, dtype=torch.float64)

    def forget(self) -> None:
        """Drops what the inner oracle remembers."""
        forget(self.inner)


def soft_potential(task: Task, ref: Tensor, reward: Tensor, tau: float) -> Potential:
    """Returns the soft values of a finite task's beginnings as a potential.

    The rise is a token's credit tau log pi / ref under pi = ref exp(reward / tau) / Z; with reward = tau log pi / ref
    it is that of any policy pi. See `soft_values`.

    Args:
        task: lists its responses.
        ref: [N] or [X, N] probabilities of the responses, for each prompt, positive.
        reward: [N] or [X, N] of the responses.
        tau: KL coefficient, positive.

    Raises:
        ValueError: if the task lists no responses, or as `soft_values`.
    """
    if task.responses is None:
        raise ValueError(f"task '{task.name}' lists no responses, whose soft values would be known; pass a potential")
    strings = [response.ids for response in task.responses]
    values = soft_values(strings, ref, reward, tau)  # [(X,) N, T + 1]
    rows = values.expand(len(task.all_prompts), *values.shape[-2:]).tolist()
    potential = {
        (prompt, string[:t]): row[t] if t < len(string) else 0.0
        for prompt, of_prompt in zip(task.all_prompts, rows, strict=True)
        for string, row in zip(strings, of_prompt, strict=True)
        for t in range(len(string) + 1)
    }
    return lambda prompt, tokens: potential[prompt, tokens]
