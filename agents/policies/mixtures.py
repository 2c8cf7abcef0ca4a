"""Policies made of policies: frozen copies, and mixtures over responses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from agents.policies.lm.hf_policy import HFPolicy
from preference_duel.keyed_random import Key, choose
from preference_duel.protocols import Policy
from preference_duel.types import Completion

_CHOICE = 2**24 - 1
"""The position of the uniform that chooses a mixture's component: far beyond any token's."""


class Frozen(Policy):
    """A copy of a policy that never learns."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy.frozen()
        self.exact = policy.exact

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples as the policy did."""
        return self.policy.draw(prompts, n, key)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, without a graph."""
        return self.policy.logprob(prompts, responses)

    def distribution(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        return self.policy.distribution(prompts, responses)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stays as it is.

        Raises:
            TypeError: if it is asked to learn.
        """
        if requires_grad:
            raise TypeError("a Frozen policy never learns; train the policy that it was made of")
        return super().requires_grad_(False)

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: a frozen policy never changes."""
        raise TypeError("a Frozen policy never changes; blend a copy that policy.frozen() returns")

    def save(self, directory: Path) -> None:
        """Writes the policy as it is."""
        self.policy.save(directory)


class Mixture(Policy):
    """The mixture sum_i w_i pi_i(y | x): the average policy of self-play, or a pool of snapshots.

    A component is chosen anew for every response.

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
        require_alike(policies)
        self.policies = nn.ModuleList(policies)
        self.exact = policies[0].exact
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.float64))

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples each response as its component would at the same place; if exact, adds the distributions."""
        if self.exact:
            return self._list(prompts, n, key)
        depth = key.depth if isinstance(key, Places) else 0
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(prompts))[:, None], vote=_CHOICE - depth)
        chosen = choose(self.weights.cpu().numpy(), uniforms)
        drawn: dict[tuple[int, int], Completion] = {}
        for i, policy in enumerate(self._components):
            rows, draws = np.nonzero(chosen == i)
            if len(rows):
                places = Places(key.seed, key.episode, key.stream, base=key, rows=rows, draws=draws, depth=depth + 1)
                sampled, _ = policy.draw([prompts[b] for b in rows.tolist()], 1, places)
                drawn |= {(b, k): row[0] for b, k, row in zip(rows.tolist(), draws.tolist(), sampled, strict=True)}
        responses = [[drawn[b, k] for k in range(n)] for b in range(len(prompts))]
        return responses, torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable."""
        first, *others = (policy.logprob(prompts, responses) for policy in self._components)
        logprobs = torch.stack([first, *(other.to(first) for other in others)])
        return (logprobs + self.weights.log().to(first)[:, None, None]).logsumexp(0)

    def distribution(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        probs = torch.stack([policy.distribution(prompts, responses) for policy in self._components])
        return torch.einsum("i,ibn->bn", self.weights.cpu(), probs)

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: a mean of mixtures is a mixture of all their components."""
        raise TypeError("a Mixture is not blended; make a Mixture of both, with weights 1 - weight and weight")

    def save(self, directory: Path) -> None:
        """Writes mixture.json with the weights, and each component under component-I."""
        write_json(directory / "mixture.json", {"weights": self.weights.tolist()})
        for i, policy in enumerate(self._components):
            save_part(policy, directory / f"component-{i}")

    @property
    def _components(self) -> list[Policy]:
        return [policy for policy in self.policies if isinstance(policy, Policy)]

    def _list(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        listings = [policy.draw(prompts, n, key) for policy in self._components]
        responses, total = listings[0][0], torch.zeros_like(listings[0][1], dtype=torch.float64)
        for (listed, probs), weight in zip(listings, self.weights.tolist(), strict=True):
            place = {response.text: i for i, response in enumerate(listed[0])}
            if place.keys() != {response.text for response in responses[0]}:
                raise ValueError(
                    "the components of an exact mixture must list the same responses; are they of one task?"
                )
            total += weight * probs[:, [place[response.text] for response in responses[0]]]
        return responses, total


@dataclass(frozen=True, kw_only=True)
class Places(Key):
    """The key of some draws (b, k) of another key, each a row of its own, with the same random numbers.

    Attributes:
        base: the other key.
        rows: b of each.
        draws: k of each.
        depth: how many policies of policies chose them.
    """

    base: Key
    rows: NDArray[np.int64]
    draws: NDArray[np.int64]
    depth: int

    def at(self, episode: ArrayLike) -> Key:
        """Returns the same places at another episode."""
        return replace(self, episode=episode, base=self.base.at(episode))

    def uniform(self, k: ArrayLike = 0, l: ArrayLike = 0, vote: ArrayLike = 0) -> NDArray[np.float64]:
        """Returns the base key's uniforms; every row has one draw, k = 0, and others stand so far behind it."""
        return self.base.uniform(self.draws[np.asarray(l)] + np.asarray(k), self.rows[np.asarray(l)], vote)


def require_alike(policies: Sequence[Policy]) -> None:
    """Raises ValueError if one policy could not score another's responses."""
    if len({policy.exact for policy in policies}) > 1:
        raise ValueError("some of the policies are exact and some draw samples; build all with the same `exact`")
    leaves = [leaf for policy in policies for leaf in policy.modules() if isinstance(leaf, HFPolicy)]
    if any(not leaf.tokenizer.same_as(leaves[0].tokenizer) for leaf in leaves):
        raise ValueError("the policies have other vocabularies; take language models with the same tokenizer")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an indented JSON file."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def save_part(policy: Policy, directory: Path) -> None:
    """Saves a policy that another one is made of, in a folder of its own."""
    directory.mkdir(exist_ok=True)
    policy.save(directory)
