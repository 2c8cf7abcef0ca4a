"""Geometric mixture pi^(1-b) ref^b, renormalised per response (tables) or per token (language models)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from agents.policies.lm.decoder import Decoder
from agents.policies.lm.generation import Generation
from agents.policies.lm.scoring import chosen
from agents.policies.mixtures import Frozen, require_alike, save_part, write_json
from agents.policies.tabular import TabularPolicy
from agents.policies.token_policy import TokenPolicy
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.transfer import to_device
from preference_duel.types import Completion


def geometric(pi: Policy, ref: Policy, b: float) -> GeometricTable | GeometricLM:
    """Returns the mixture pi^(1-b) ref^b, renormalised per token (for tables, per response).

    The mixture of Nash-MD (Munos et al. 2023, arXiv:2312.00886, Section 7: token by token, while the theory has whole
    responses) and of IPO-MD (Calandriello et al. 2024, arXiv:2403.08635).

    Args:
        pi: one policy.
        ref: the other, of the same kind and vocabulary.
        b: the share of `ref`, in [0, 1].

    Raises:
        ValueError: if `b` is out of range, or the two differ in vocabulary, limits or exactness, or truncate their
            distributions (nothing might be left of both).
        TypeError: if they are neither two tables nor two policies that write token by token.
    """
    if not 0 <= b <= 1:
        raise ValueError(f"b must lie in [0, 1], got {b}")
    require_alike((pi, ref))
    parts = _thawed(pi), _thawed(ref)
    if all(isinstance(part, TabularPolicy | GeometricTable) for part in parts):
        return GeometricTable(pi, ref, b)
    if all(isinstance(part, TokenPolicy) for part in parts):
        return GeometricLM(pi, ref, b)
    raise TypeError(
        f"a geometric mixture takes two tables, or two policies that write token by token; got "
        f"{' and '.join(type(part).__name__ for part in parts)}"
    )


class _Geometric(Policy):
    """The two policies of a mixture, and the share b of the second."""

    def __init__(self, pi: Policy, ref: Policy, b: float) -> None:
        super().__init__()
        self.pi, self.ref, self.b = pi, ref, b
        self.exact = pi.exact

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: only its parts can be blended."""
        raise TypeError("a geometric mixture is not blended; blend its parts pi and ref")

    def save(self, directory: Path) -> None:
        """Writes geometric.json with b, and the two policies under pi and ref."""
        write_json(directory / "geometric.json", {"b": self.b})
        save_part(self.pi, directory / "pi")
        save_part(self.ref, directory / "ref")

    def _mix(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns (1-b) first + b second; at the ends only one of them, since 0 times -inf is NaN."""
        if self.b in (0, 1):
            return second if self.b else first
        return (1 - self.b) * first + self.b * second.to(first)


class GeometricTable(_Geometric):
    """The geometric mixture of two tables; see `geometric`."""

    def __init__(self, pi: Policy, ref: Policy, b: float) -> None:
        super().__init__(pi, ref, b)
        first, second = self._parts
        if first.cells.columns != second.cells.columns:
            raise ValueError("the two tables list other responses; are they of one task?")
        self.cells = first.cells

    def log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N]."""
        first, second = (part.log_probs(prompts) for part in self._parts)
        return self._mix(first, second).log_softmax(-1)

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples responses, or lists those of a finite task if exact."""
        return self.cells.draw(self.log_probs(prompts), None if self.exact else n, key)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        return self.cells.pick(self.log_probs(prompts), responses)

    def token_logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> tuple[Tensor, Tensor]:
        """Raises TypeError: a table has no tokens."""
        raise TypeError("a table has no tokens; use logprob")

    @property
    def _parts(self) -> list[TabularPolicy]:
        return [cast("TabularPolicy", _thawed(part)) for part in (self.pi, self.ref)]


class GeometricLM(_Geometric, TokenPolicy):
    """The geometric mixture of two policies that write token by token; see `geometric`."""

    def __init__(self, pi: Policy, ref: Policy, b: float) -> None:
        super().__init__(pi, ref, b)
        first, second = self._parts
        if first.truncates or second.truncates:
            raise ValueError(
                "a geometric mixture takes policies with top_p=1 and top_k=0; of others nothing may be left"
            )
        if not first.constraints.same_as(second.constraints):
            raise ValueError("the two policies have other limits or legal tokens; build them for the same task")
        if first.engine is not None:
            warnings.warn(
                "a geometric mixture is sampled by its two models, not by vLLM, which runs one: its samples take as "
                "long as with --policy.sampler transformers",
                stacklevel=2,
            )
        self.constraints = first.constraints
        self.micro_tokens = min(first.micro_tokens, second.micro_tokens)

    @property
    def sharded(self) -> bool:
        """True if the parameters of either are sharded."""
        return any(part.sharded for part in self._parts)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gathers the parameters of both inside the block."""
        first, second = self._parts
        with first.gathered(), second.gathered():
            yield

    def rows_at_once(self, longest: int) -> int:
        """Returns half of what the smaller part samples at once: there are two caches."""
        return max(1, min(part.rows_at_once(longest) for part in self._parts) // 2)

    def decoder(self, prompts: Sequence[str], rows: Sequence[int]) -> Decoder:
        """Starts the same responses with both."""
        first, second = (part.decoder(prompts, rows) for part in self._parts)
        return _PairDecoder(first, second, self._mix)

    def logits(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32, differentiable."""
        first, second = (part.logits(prompts, tokens) for part in self._parts)
        return self._mix(first, second)

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats, differentiable."""
        flat = torch.tensor([token for row in tokens for token in row])
        return chosen(self.logits(prompts, tokens), to_device(flat, self.device))

    def prompt_length(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt."""
        return self._parts[0].prompt_length(prompt)

    def completions(self, generated: Sequence[Generation]) -> list[Completion]:
        """Returns the responses of these tokens."""
        return self._parts[0].completions(generated)

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens of a response."""
        return self._parts[0].tokens_of(response)

    @property
    def _parts(self) -> list[TokenPolicy]:
        return [cast("TokenPolicy", _thawed(part)) for part in (self.pi, self.ref)]


@dataclass(frozen=True)
class _PairDecoder:
    """Writes the same responses with two decoders."""

    pi: Decoder
    ref: Decoder
    mix: Callable[[Tensor, Tensor], Tensor]

    def logits(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32."""
        return self.mix(self.pi.logits(states), self.ref.logits(states))

    def append(self, tokens: Tensor) -> None:
        """Writes one more token [R] to every response."""
        self.pi.append(tokens)
        self.ref.append(tokens)

    def select(self, rows: Tensor) -> None:
        """Goes on with these responses only."""
        self.pi.select(rows)
        self.ref.select(rows)


def _thawed(policy: Policy) -> Policy:
    while isinstance(policy, Frozen):
        policy = policy.policy
    return policy
