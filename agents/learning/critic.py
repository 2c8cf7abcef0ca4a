"""The value function of PPO: what the policy will earn from each token on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from agents.optim.optimiser import Optimiser, OptimiserConfig
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.hidden_states import copied_layers, hidden_at
from agents.policies.replicas import clip_each
from agents.policies.tabular import Cells, TabularPolicy
from agents.policies.tensors import restore, tensors
from preference_duel.protocols import Policy
from preference_duel.types import Completion, Duel


class Critic(nn.Module, ABC):
    """Foretells what is earned; it starts at 0."""

    @abstractmethod
    def forward(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K, T] the value before each token, 0 after a response's end, differentiable."""

    def clip_gradient(self, limit: float) -> Tensor | None:
        """Scales the gradient down to a norm, see `Policy.clip_gradient`."""
        del limit


class PromptCritic(Critic):
    """One number for each prompt of a finite task: a table's response is a single action."""

    def __init__(self, cells: Cells, replicas: int) -> None:
        super().__init__()
        self.cells, self.replicas = cells, replicas
        self.value = nn.Parameter(torch.zeros(len(cells.rows), dtype=torch.float64))

    def forward(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K, 1]."""
        return self.value[self.cells.rows_of(prompts)][:, None, None].expand(-1, len(responses[0]), 1)

    def clip_gradient(self, limit: float) -> Tensor:
        """Clips the gradient of each replica's values."""
        return clip_each(self.value, self.replicas, limit)


class TokenCritic(Critic):
    """The policy's layers, copied, with a scalar head (Ouyang et al. 2022, arXiv:2203.02155, Section 3.5)."""

    def __init__(self, policy: HFPolicy) -> None:
        super().__init__()
        self.layers = copied_layers(policy)
        self.head = nn.Linear(self.layers.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.tokenizer, self.tokens_of = policy.tokenizer, policy.tokens_of
        self.micro_tokens = policy.micro_tokens
        self.to(policy.device)

    def forward(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K, T] float32."""
        flat = [
            (self.tokenizer.prompt(x), self.tokens_of(y))
            for x, row in zip(prompts, responses, strict=True)
            for y in row
        ]
        places = [range(len(prompt) - 1, len(prompt) + len(written) - 1) for prompt, written in flat]
        hidden = hidden_at(self.layers, [[*x, *y] for x, y in flat], places, self.micro_tokens)
        values = self.head(hidden)[:, 0].split([len(written) for _, written in flat])
        return pad_sequence(values, batch_first=True).unflatten(0, (len(prompts), -1))


class PromptValue:
    """A value function V(x), read before the first token of a response, and its optimiser.

    Attributes:
        critic: the value function.

    Raises:
        ValueError: if the policy is neither a table nor a language model.
    """

    def __init__(self, policy: Policy, config: OptimiserConfig) -> None:
        self.critic = critic_of(policy)
        self._optimiser = Optimiser(self.critic.parameters(), config, 1e-3, self.critic.clip_gradient)

    def __call__(self, duel: Duel) -> Tensor:
        """Returns [B] the values of a duel's prompts, differentiable."""
        return self.critic(duel.prompts, [row[:1] for row in duel.left])[:, 0, 0]

    def step(self, loss: Callable[[], Tensor]) -> None:
        """Takes one step of the value function on a loss of its values."""

        def accumulate() -> Tensor:
            found = loss()
            found.backward()
            return found.detach()

        self._optimiser.step(accumulate)

    def state_dict(self) -> dict[str, Any]:
        """Returns the value function and its optimiser."""
        return {"critic": tensors(self.critic), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.critic, state["critic"])
        self._optimiser.load_state_dict(state["optimiser"])


def critic_of(policy: Policy) -> Critic:
    """Returns a value function for a policy.

    Raises:
        ValueError: if the policy is neither a table nor a language model.
    """
    if isinstance(policy, TabularPolicy):
        return PromptCritic(policy.cells, policy.replicas)
    if isinstance(policy, HFPolicy):
        return TokenCritic(policy)
    raise ValueError(f"a value function is for tables and language models, not for a {type(policy).__name__}")
