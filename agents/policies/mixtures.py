"""Policies made of policies: frozen copies, mixtures over responses, and geometric mixtures over tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from agents.policies.geometric import ByResponse, ByToken, Table
from agents.policies.lm import generation, scoring
from agents.policies.lm.decoder import Autoregressive
from agents.policies.lm.enumeration import listed_law
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.response_trie import ResponseTrie
from preference_duel.keyed_random import Key, choose
from preference_duel.protocols import Policy
from preference_duel.types import Completion

_CHOICE = 2**24 - 1
"""The position of the uniform that chooses a mixture's component: far beyond any token's."""


class Frozen(Policy):
    """A policy as it was: a copy that never learns.

    Args:
        policy: what is copied.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy.frozen()
        self.exact = policy.exact

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws as the policy did."""
        return self.policy.draw(prompts, n, key)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, without a graph."""
        return self.policy.logprob(prompts, responses)

    def law(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        return self.policy.law(prompts, responses)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stays as it is.

        Raises:
            TypeError: if it is asked to learn.
        """
        if requires_grad:
            _refuse("a Frozen policy never learns; train the policy that it was made of")
        return super().requires_grad_(False)

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: nothing moves a frozen policy."""
        _refuse("a Frozen policy never changes; blend a copy that policy.frozen() returns")

    def save(self, directory: Path) -> None:
        """Writes the policy as it is."""
        self.policy.save(directory)


class Mixture(Policy):
    """Answers each time as one of several policies, chosen anew for every response.

    The law is sum_i w_i pi_i(y | x): the average policy of self-play, or a pool of snapshots.

    Args:
        policies: the components.
        weights: their probabilities, which sum to 1; None: equal ones.

    Raises:
        ValueError: if weights and policies do not fit each other, or the policies differ in vocabulary or exactness.
    """

    weights: Tensor

    def __init__(self, policies: Sequence[Policy], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        count = len(policies)
        shares = [1 / count for _ in policies] if weights is None else list(weights)
        if not policies or len(shares) != count or min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise ValueError(f"a mixture needs one weight >= 0 for each policy, with sum 1; got {shares} for {count}")
        _require_alike(policies)
        self.policies = nn.ModuleList(policies)
        self.exact = policies[0].exact
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.float64))

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws each response as its component would at the same place; where exact, adds the components' laws."""
        if self.exact:
            return self._list(prompts, n, key)
        depth = key.depth if isinstance(key, _Places) else 0
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(prompts))[:, None], vote=_CHOICE - depth)
        chosen = choose(self.weights.cpu().numpy(), uniforms)
        drawn: dict[tuple[int, int], Completion] = {}
        for i, policy in enumerate(self._components):
            rows, draws = np.nonzero(chosen == i)
            if len(rows):
                places = _Places(key.seed, key.episode, key.stream, base=key, rows=rows, draws=draws, depth=depth + 1)
                found, _ = policy.draw([prompts[b] for b in rows.tolist()], 1, places)
                drawn |= {(b, k): row[0] for b, k, row in zip(rows.tolist(), draws.tolist(), found, strict=True)}
        responses = [[drawn[b, k] for k in range(n)] for b in range(len(prompts))]
        return responses, torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        first, *others = (policy.logprob(prompts, responses) for policy in self._components)
        laws = torch.stack([first, *(other.to(first) for other in others)])
        return (laws + self.weights.log().to(first)[:, None, None]).logsumexp(0)

    def law(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        laws = [policy.law(prompts, responses) for policy in self._components]
        return torch.einsum("i,ibn->bn", self.weights.cpu(), torch.stack(laws))

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: a mean of mixtures is a mixture of all their components."""
        _refuse("a Mixture is not blended; make a Mixture of both, with weights 1 - weight and weight")

    def save(self, directory: Path) -> None:
        """Writes mixture.json with the weights, and each component under component-I."""
        _save(directory, "mixture.json", {"weights": self.weights.tolist()})
        for i, policy in enumerate(self._components):
            _save_part(policy, directory / f"component-{i}")

    @property
    def _components(self) -> list[Policy]:
        return [policy for policy in self.policies if isinstance(policy, Policy)]

    def _list(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        laws = [policy.draw(prompts, n, key) for policy in self._components]
        responses, total = laws[0][0], torch.zeros_like(laws[0][1], dtype=torch.float64)
        for (listed, law), weight in zip(laws, self.weights.tolist(), strict=True):
            place = {response.text: i for i, response in enumerate(listed[0])}
            if place.keys() != {response.text for response in responses[0]}:
                raise ValueError(
                    "the components of an exact mixture must list the same responses; are they of one task?"
                )
            total += weight * law[:, [place[response.text] for response in responses[0]]]
        return responses, total


@dataclass(frozen=True, kw_only=True)
class _Places(Key):
    """The key of some draws (b, k) of another key, each a row of its own; what they draw is the same."""

    base: Key
    rows: NDArray[np.int64]
    draws: NDArray[np.int64]
    depth: int

    def at(self, episode: ArrayLike) -> Key:
        """Returns the same places at another episode."""
        return replace(self, episode=episode, base=self.base.at(episode))

    def uniform(self, k: ArrayLike = 0, l: ArrayLike = 0, vote: ArrayLike = 0) -> NDArray[np.float64]:
        """Returns the base key's uniforms; every row has one draw, k = 0."""
        del k
        return self.base.uniform(self.draws[np.asarray(l)], self.rows[np.asarray(l)], vote)


class Geometric(Policy):
    """The law between two policies: pi^(1-b) ref^b, renormalised for each token (for tables, for each response).

    The mixture of Nash-MD (Munos et al. 2023, arXiv:2312.00886, Section 7: token by token, where the theory has whole
    responses) and of IPO-MD (Calandriello et al. 2024, arXiv:2403.08635).

    Args:
        pi: one policy.
        ref: the other, of the same kind and vocabulary.
        b: the share of `ref`, in [0, 1].

    Raises:
        ValueError: if `b` is out of range, or the two differ in vocabulary, limits or exactness, or truncate their laws
            (nothing might be left of both).
        TypeError: if they are neither two tables nor two policies that write token by token.
    """

    def __init__(self, pi: Policy, ref: Policy, b: float) -> None:
        super().__init__()
        if not 0 <= b <= 1:
            raise ValueError(f"b must lie in [0, 1], got {b}")
        _require_alike((pi, ref))
        self.pi, self.ref, self.b = pi, ref, b
        self.exact = pi.exact
        self.mixed.require_same()

    @property
    def mixed(self) -> ByToken | ByResponse:
        """What is drawn from."""
        first, second = _uncovered(self.pi), _uncovered(self.ref)
        if isinstance(first, Table) and isinstance(second, Table):
            return ByResponse(first, second, self.b)
        if isinstance(first, Autoregressive) and isinstance(second, Autoregressive):
            return ByToken(first, second, self.b)
        _refuse(
            f"Geometric mixes two tables, or two policies that write token by token; got {type(first).__name__} and "
            f"{type(second).__name__}"
        )

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws responses, or lists those of a finite task where exact."""
        law = self.mixed
        if isinstance(law, ByResponse):
            return law.cells.draw(law.log_probs(prompts), None if self.exact else n, key)
        if self.exact and isinstance(law.rules, ResponseTrie):
            return law.rules.law(prompts, self.logprob)
        return generation.draw(law, prompts, n, key)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        law = self.mixed
        if isinstance(law, ByResponse):
            return law.cells.pick(law.log_probs(prompts), responses)
        return scoring.token_logprob(law, prompts, responses)[0].sum(-1)

    def law(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        law = self.mixed
        if isinstance(law, ByResponse):
            return super().law(prompts, responses)
        return listed_law(law, law.rules, prompts, responses)

    def token_logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> tuple[Tensor, Tensor]:
        """Returns [B, K, T] nats and the mask, as `HFPolicy.token_logprob` does.

        Raises:
            TypeError: if it mixes tables.
        """
        law = self.mixed
        if isinstance(law, ByResponse):
            _refuse("a table has no tokens; use logprob")
        return scoring.token_logprob(law, prompts, responses)

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: only its parts can be blended."""
        _refuse("a Geometric mixture is not blended; blend its parts pi and ref")

    def save(self, directory: Path) -> None:
        """Writes geometric.json with b, and the two policies under pi and ref."""
        _save(directory, "geometric.json", {"b": self.b})
        _save_part(self.pi, directory / "pi")
        _save_part(self.ref, directory / "ref")


def _uncovered(policy: Policy) -> Policy | ByToken | ByResponse:
    while isinstance(policy, Frozen):
        policy = policy.policy
    return policy.mixed if isinstance(policy, Geometric) else policy


def _require_alike(policies: Sequence[Policy]) -> None:
    """Raises where one policy could not say what another's responses are worth."""
    if len({policy.exact for policy in policies}) > 1:
        raise ValueError("some of the policies are exact and some draw samples; build all with the same `exact`")
    leaves = [leaf for policy in policies for leaf in policy.modules() if isinstance(leaf, HFPolicy)]
    if any(not leaf.tokenizer.same_as(leaves[0].tokenizer) for leaf in leaves):
        raise ValueError("the policies have other vocabularies; take language models with the same tokenizer")


def _refuse(message: str) -> NoReturn:
    raise TypeError(message)


def _save(directory: Path, name: str, value: dict[str, Any]) -> None:
    (directory / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def _save_part(policy: Policy, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    policy.save(directory)
