"""Policies that select among another one's samples by a reward: statistical rejection sampling and best-of-n."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.policies.mixtures import Places
from preference_duel.checks import positive, require, within
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.types import Completion

Reward = Callable[[Sequence[str], Sequence[Sequence[Completion]]], Tensor]
"""Returns the rewards [B, K] of responses [B][K] to B prompts."""

_CHANCE = 2**24 - 2**12
"""The position of the uniform that accepts a candidate: beyond any token's, and no mixture's."""
_APART = 2**20
"""Distance between the draws of one response's candidates; fewer responses than that are drawn at once."""
_MOST = within(f"[1, {2**32 // _APART - 1}]", "candidates beyond would repeat the random numbers of the first ones")


class _Selected(Policy):
    """Samples of a policy, chosen by a reward; the candidates of a response depend on its place alone."""

    def __init__(self, policy: Policy, reward: Reward) -> None:
        super().__init__()
        if any(isinstance(part, _Selected) for part in policy.modules()):
            raise ValueError(
                f"{type(self).__name__} can't select from a policy that itself selects: both would number candidates "
                f"alike; select once, by one reward"
            )
        self.policy, self.reward = policy.frozen(), reward
        self.exact = policy.exact

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Selects each response among candidates of its own, or lists those of a finite task if exact."""
        if self.exact:
            listed, probs = self.policy.draw(prompts, n, key)
            return listed, self._reweighted(probs, self._rewards(prompts, listed))
        if n >= _APART:
            raise ValueError(f"fewer than {_APART} responses are drawn at once, got {n}")
        rows, draws = np.divmod(np.arange(len(prompts) * n), n)
        chosen = self._select(prompts, rows, draws, key)
        return [chosen[b * n : (b + 1) * n] for b in range(len(prompts))], torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Raises TypeError: of single responses the probabilities are not known."""
        raise TypeError(f"{type(self).__name__} tells no log-probabilities; on a finite task it has a distribution")

    @torch.no_grad()
    def distribution(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU."""
        rewards = self._rewards(prompts, [list(responses)] * len(prompts))
        return self._reweighted(self.policy.distribution(prompts, responses), rewards)

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: only the policy inside can be blended."""
        raise TypeError(f"{type(self).__name__} is not blended; blend the policy that it selects from")

    def save(self, directory: Path) -> None:
        """Raises TypeError: a reward can't be written."""
        raise TypeError(f"{type(self).__name__} is not saved, as its reward is a function; save the policy inside")

    def _rewards(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] float64 on the CPU."""
        rewards = self.reward(prompts, responses).double().cpu()
        if rewards.shape != (len(responses), len(responses[0])) or not rewards.isfinite().all():
            raise ValueError(f"the reward must return one finite number for each response, got {tuple(rewards.shape)}")
        return rewards

    def _candidates(
        self, prompts: Sequence[str], rows: NDArray[np.int64], draws: NDArray[np.int64], key: Key, depth: int
    ) -> tuple[list[Completion], Tensor]:
        """Returns one sample for each place (row, draw), and its reward."""
        places = Places(key.seed, key.episode, key.stream, base=key, rows=rows, draws=draws, depth=depth)
        asked = [prompts[int(b)] for b in rows]
        sampled, _ = self.policy.draw(asked, 1, places)
        return [row[0] for row in sampled], self._rewards(asked, sampled)[:, 0]

    @abstractmethod
    def _reweighted(self, probs: Tensor, rewards: Tensor) -> Tensor:
        """Returns the distribution [B, N] that selection makes of the policy's."""

    @abstractmethod
    def _select(
        self, prompts: Sequence[str], rows: NDArray[np.int64], draws: NDArray[np.int64], key: Key
    ) -> list[Completion]:
        """Returns a response for each place (row, draw)."""


class Accepted(_Selected):
    """ref exp(reward / beta) / Z by rejection: a sample of ref is kept with chance exp((reward - largest) / beta).

    RSO's sampler (Liu et al. 2023, arXiv:2309.06657). The paper takes the largest reward among 64 candidates for
    `largest`, which lets too many of the best ones through; with a bound that holds the distribution is exact.

    Args:
        policy: ref.
        reward: of responses.
        beta: temperature, positive; a small one rejects more.
        largest: no reward is above it; 1 for a win rate.
        most: candidates of one response, at most.

    Raises:
        ValueError: if a value is out of range, or the policy selects itself.
    """

    def __init__(self, policy: Policy, reward: Reward, beta: float, largest: float, most: int = 1000) -> None:
        super().__init__(policy, reward)
        self.beta, self.largest, self.most = beta, largest, most
        require(self, beta=positive, most=_MOST)

    @torch.no_grad()
    def acceptance(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B] the share of candidates that is accepted, on a finite task of these responses."""
        rewards = self._rewards(prompts, [list(responses)] * len(prompts))
        return (self.policy.distribution(prompts, responses) * self._log_chance(rewards).exp()).sum(1)

    def _log_chance(self, rewards: Tensor) -> Tensor:
        if (rewards > self.largest).any():
            raise ValueError(f"a reward of {rewards.max().item():g} is above largest={self.largest:g}; raise it")
        return (rewards - self.largest) / self.beta

    def _reweighted(self, probs: Tensor, rewards: Tensor) -> Tensor:
        return (probs.log() + self._log_chance(rewards)).softmax(1)

    def _select(
        self, prompts: Sequence[str], rows: NDArray[np.int64], draws: NDArray[np.int64], key: Key
    ) -> list[Completion]:
        depth = key.depth if isinstance(key, Places) else 0
        found: dict[int, Completion] = {}
        left = np.arange(len(rows))
        for candidate in range(self.most):
            where = rows[left], draws[left] + candidate * _APART
            sampled, rewards = self._candidates(prompts, *where, key, depth + 1)
            uniforms = key.uniform(k=where[1], l=where[0], vote=_CHANCE - depth)
            kept = uniforms < self._log_chance(rewards).exp().numpy()
            found |= {i: sampled[place] for place, i in enumerate(left.tolist()) if kept[place]}
            left = left[~kept]
            if not len(left):
                return [found[i] for i in range(len(rows))]
        raise ValueError(
            f"{self.most} candidates for {prompts[int(rows[left[0]])]!r} were all rejected: raise beta={self.beta:g}, "
            f"or lower largest={self.largest:g} to what rewards can reach"
        )


class BestOf(_Selected):
    """The sample of the largest reward among `count`; of equal ones the first.

    KL from the policy is at most log n - (n - 1)/n (`envs.games.lower_bounds.best_of_n_kl`).

    Args:
        policy: what is sampled.
        reward: of responses.
        count: n, samples for each response.

    Raises:
        ValueError: if `count` is out of range, or the policy selects itself.
    """

    def __init__(self, policy: Policy, reward: Reward, count: int) -> None:
        super().__init__(policy, reward)
        self.count = count
        require(self, count=_MOST)

    def _reweighted(self, probs: Tensor, rewards: Tensor) -> Tensor:
        mine, its = rewards[:, :, None], rewards[:, None, :]
        below, level = ((probs[:, None, :] * share).sum(2) for share in (its < mine, its == mine))  # [B, N]
        reached = (below + level) ** self.count - below**self.count  # that the best reward is this one
        return probs * reached / level.masked_fill(level == 0, 1)

    def _select(
        self, prompts: Sequence[str], rows: NDArray[np.int64], draws: NDArray[np.int64], key: Key
    ) -> list[Completion]:
        depth = key.depth if isinstance(key, Places) else 0
        tried = [
            self._candidates(prompts, rows, draws + candidate * _APART, key, depth + 1)
            for candidate in range(self.count)
        ]
        best = torch.stack([rewards for _, rewards in tried]).argmax(0).tolist()
        return [tried[candidate][0][i] for i, candidate in enumerate(best)]
