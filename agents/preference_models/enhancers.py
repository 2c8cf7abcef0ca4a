"""Enhancers of OELHF (Ye et al. 2024, arXiv:2402.07314): policies of the second seat that explore."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.tabular import TabularPolicy
    from agents.preference_models.counts import DuelCounts
    from agents.preference_models.network import NetworkModel
    from agents.preference_models.uncertainty import LinearUncertainty
    from preference_duel.keyed_random import Key
    from preference_duel.protocols import Policy
    from preference_duel.types import Completion, Duel

    Responses = Sequence[Sequence[Completion]]
    """[B][K] responses."""

EnhancerName = Literal["optimistic", "tournament", "none", "uniform"]


class Enhancer(ABC):
    """Chooses what is compared with the samples of `policy`, which plays the first seat."""

    policy: Policy

    @abstractmethod
    def respond(self, prompts: Sequence[str], left: Responses, key: Key) -> list[list[Completion]]:
        """Returns [B][K] one response against each of the main agent's [B][K] samples."""

    def add(self, duel: Duel) -> None:
        """Learns from a duel; without effect if the enhancer keeps nothing."""
        del duel

    def state_dict(self) -> dict[str, Any]:
        """Returns what `add` learned."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        del state


class IndependentSamples(Enhancer):
    """Samples the second seat like the first: no exploration beyond the policy's own."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def respond(self, prompts: Sequence[str], left: Responses, key: Key) -> list[list[Completion]]:
        """Returns [B][K] further samples of the policy."""
        return self.policy.draw(prompts, len(left[0]), key)[0]


class Tournament(Enhancer):
    """The model's favourite of each group of C samples of the main agent, the paper's practice (Section 6)."""

    def __init__(self, policy: Policy, model: DuelCounts | NetworkModel, candidates: int) -> None:
        self.policy, self.model, self.candidates = policy, model, candidates

    def respond(self, prompts: Sequence[str], left: Responses, key: Key) -> list[list[Completion]]:
        """Returns [B][K] the winner of each sample's own group of candidates."""
        count, size = len(left[0]), self.candidates
        samples, _ = self.policy.draw(prompts, count * size, key)  # [B][K * C]
        groups = [list(row[i : i + size]) for row in samples for i in range(0, count * size, size)]  # [B * K][C]
        win_rate = self.model.prob([x for x in prompts for _ in range(count)], groups, groups).mean(2)  # [B * K, C]
        favourites = [group[i] for group, i in zip(groups, win_rate.argmax(1).tolist(), strict=True)]
        return [favourites[i : i + count] for i in range(0, len(favourites), count)]


class OptimisticTable(Enhancer):
    """The response, of all of a table, whose duels with the main agent the counts leave most uncertain.

    For one free number per pair Gamma^2 = sum_{a<b} (pi1(a) pi2(b) - pi1(b) pi2(a))^2 / (lambda + n_ab / m), convex in
    pi2; at a pure response b it is sum_{a != b} pi1(a)^2 / (lambda + n_ab / m), whose maximum is played. n_ab are the
    duels of a and b, and m = K the duels per iteration.
    """

    def __init__(self, policy: TabularPolicy, model: DuelCounts, ridge: float) -> None:
        self.policy, self.table, self.model, self.ridge = policy, policy, model, ridge

    def respond(self, prompts: Sequence[str], left: Responses, key: Key) -> list[list[Completion]]:
        """Returns [B][K] the listed responses of largest Gamma."""
        responses = self.table.cells.responses
        pi1 = self.table.distribution(prompts, responses)  # [B, N]
        columns = self.model.columns(left)  # [B, K]
        chosen = [self._most_uncertain(*row) for row in zip(prompts, pi1.square(), columns, strict=True)]
        return [[responses[b] for b in row] for row in chosen]

    def _most_uncertain(self, prompt: str, squares: Tensor, left: Tensor) -> list[int]:
        """Returns [K] columns that maximise Gamma, one after the other, each duel counted before the next."""
        counts, chosen = self.model.counts(prompt).clone(), []  # [N, N] n_ab
        for a in left.tolist():
            uncertainty = 1 / (self.ridge + counts / len(left))  # [N, N]
            uncertainty.fill_diagonal_(0)
            b = int((squares @ uncertainty).argmax())
            chosen.append(b)
            counts[a, b] += 1
            counts[b, a] += 1
        return chosen


class OptimisticSamples(Enhancer):
    """The sample, of K * C of the main agent, of largest Gamma under a linear model of a language model's features."""

    def __init__(self, policy: Policy, uncertainty: LinearUncertainty, candidates: int) -> None:
        self.policy, self.uncertainty, self.candidates = policy, uncertainty, candidates

    def respond(self, prompts: Sequence[str], left: Responses, key: Key) -> list[list[Completion]]:
        """Returns [B][K] the candidates of largest Gamma."""
        samples, _ = self.policy.draw(prompts, len(left[0]) * self.candidates, key)  # [B][K * C]
        features = self.uncertainty.features
        chosen = self.uncertainty.most_uncertain(features(prompts, left), features(prompts, samples))  # [B][K]
        return [[row[i] for i in columns] for row, columns in zip(samples, chosen, strict=True)]

    def add(self, duel: Duel) -> None:
        """Adds the compared pairs to the features' covariance."""
        self.uncertainty.add(duel)

    def state_dict(self) -> dict[str, Any]:
        """Returns the inverse of the features' covariance."""
        return self.uncertainty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.uncertainty.load_state_dict(state)


def make_enhancer(
    name: str,
    policy: Policy,
    reference: Policy,
    model: DuelCounts | NetworkModel,
    responses: int,
    candidates: int,
    ridge: float,
) -> Enhancer:
    """Builds an enhancer.

    Args:
        name: "uniform" is for tables; "optimistic" for tables and language models.
        policy: the main agent's.
        reference: a frozen copy of it, whose features a linear model reads.
        model: of the preferences.
        responses: K, duels per prompt and update.
        candidates: C, samples for each response of the enhancer.
        ridge: lambda of the optimistic enhancers.
    """
    from agents.policies.lm.hf_policy import HFPolicy
    from agents.policies.tabular import TabularPolicy
    from agents.preference_models.counts import DuelCounts
    from agents.preference_models.uncertainty import LinearUncertainty

    if name == "optimistic" and isinstance(reference, HFPolicy):
        return OptimisticSamples(policy, LinearUncertainty(reference, ridge, responses), candidates)
    if name == "optimistic" and isinstance(policy, TabularPolicy) and isinstance(model, DuelCounts):
        return OptimisticTable(policy, model, ridge)
    if name == "uniform" and isinstance(policy, TabularPolicy):
        uniform = policy.frozen()
        torch.nn.init.zeros_(uniform.logits)
        return IndependentSamples(uniform)
    return IndependentSamples(policy) if name == "none" else Tournament(policy, model, candidates)
