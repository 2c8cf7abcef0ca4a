"""Preferences that come from one reward per response: from a reward model, or drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from oracles.readers.classifier import ReaderConfig, RewardModel, require_idle
from preference_duel.checks import positive_finite, require
from preference_duel.keyed_random import hash_seed
from preference_duel.names import nearest

if TYPE_CHECKING:
    from torch import Tensor

Rewards = Callable[[Sequence[str], Sequence[str]], "Tensor"]
"""Returns [N] rewards of N (prompt, response) pairs."""


@dataclass(frozen=True)
class BradleyTerryConfig:
    """P(a beats b) = sigmoid(r(a) - r(b)) (Bradley & Terry 1952): no cycles, the control of every comparison."""

    model: str | None = None
    """Directory or hub id of a sequence classifier with one label; None: a reward drawn at random, see `seed`."""
    seed: int = 0
    """Without a model: random seed of the rewards."""
    scale: float = 2.0
    """Without a model: root mean square of r(a) - r(b) over pairs of different responses, in nats, > 0."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """With a model: its input format, precision and batches."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> RewardOracle:
        """Returns the oracle.

        Args:
            prompts: those that it will be asked about; a model's chat template must take their roles.
            responses: a finite task's; over them the drawn rewards have exactly the scale.
            device: where the model runs.

        Raises:
            ValueError: if a field is out of range, is set although nothing reads it, or the model gives no reward or
                cannot read a prompt.
            OSError: if the model cannot be found.
        """
        require_idle("bt", self, ("seed", "scale") if self.model is not None else ("reader",))
        if self.model is None:
            require(self, scale=positive_finite)
            return RewardOracle(DrawnRewards(self.seed, self.scale, responses))
        model = RewardModel.load(self.model, self.reader, device)
        model.require_readable(prompts or ())
        return RewardOracle(model)


class RewardOracle:
    """Turns rewards into preferences, reading each response once.

    Args:
        rewards: gives the reward of each (prompt, response), on the CPU, in nats.
    """

    antisymmetric = True

    def __init__(self, rewards: Rewards) -> None:
        self.rewards = rewards

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt), in the precision of the rewards."""
        rewards = self.rewards([*prompts, *prompts], [*first, *second])
        return torch.sigmoid(rewards[: len(prompts)] - rewards[len(prompts) :])

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L] from K + L readings of each prompt, K where both sides are the same."""
        ours = self._table(prompts, left)
        theirs = ours if right is left else self._table(prompts, right)
        return torch.sigmoid(ours[:, :, None] - theirs[:, None, :])

    def forget(self) -> None:
        """Drops what a reward model remembers; a runner does so at every step, so that a resumed run equals it."""
        from preference_duel.protocols import forget  # imports torch

        forget(self.rewards)

    def _table(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Tensor:
        asked = [prompt for prompt, texts in zip(prompts, responses, strict=True) for _ in texts]
        return self.rewards(asked, [text for texts in responses for text in texts]).view(len(prompts), -1)


class DrawnRewards:
    """Gives every (prompt, response) a Gaussian reward that depends on the seed and the two texts alone.

    On a finite task each prompt's rewards are scaled so that their differences have root mean square `scale` over the
    listed responses; elsewhere they have it on average.

    Args:
        seed: random seed of the rewards.
        scale: root mean square of the differences, > 0.
        responses: N >= 2 distinct responses of a finite task, the only ones that have a reward; None: any text.

    Raises:
        ValueError: if fewer than two responses are listed, or one twice.
    """

    def __init__(self, seed: int, scale: float, responses: Sequence[str] | None = None) -> None:
        distinct = len(set(responses or ()))
        if responses is not None and (distinct < 2 or distinct < len(responses)):
            raise ValueError(
                f"expected 2 or more distinct responses, got {len(responses)}, of them {distinct} distinct"
            )
        self.seed, self.scale = seed, scale
        self.responses = None if responses is None else tuple(responses)
        self._column = None if responses is None else {response: i for i, response in enumerate(responses)}
        self._of_prompt: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns [N] float64.

        Raises:
            ValueError: for a response that is not listed.
        """
        if self._column is None:
            drawn = [self._normal(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
            return torch.tensor(drawn, dtype=torch.float64) * (self.scale / math.sqrt(2))
        try:
            columns = [self._column[response] for response in responses]
        except KeyError as error:
            name = error.args[0]
            raise ValueError(
                f"'{name}' is none of the task's {len(self._column)} responses{nearest(name, self._column)}"
            ) from None
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        if not rows:
            return torch.empty(0, dtype=torch.float64)
        table = torch.stack([self._listed(prompt) for prompt in rows])  # [X, N]
        return table[[rows[prompt] for prompt in prompts], columns]

    def _listed(self, prompt: str) -> Tensor:
        """Returns the rewards of all listed responses, made at the prompt's first query."""
        assert self.responses is not None
        if prompt not in self._of_prompt:
            drawn = np.array([self._normal(prompt, response) for response in self.responses])
            # The mean of (r_i - r_j)^2 over i != j is twice the unbiased variance.
            drawn *= self.scale / (math.sqrt(2) * drawn.std(ddof=1))
            self._of_prompt[prompt] = torch.from_numpy(drawn)
        return self._of_prompt[prompt]

    def _normal(self, prompt: str, response: str) -> float:
        """Returns a standard normal keyed by seed and texts."""
        from scipy.special import ndtri  # scipy takes a quarter of a second

        bits = hash_seed("reward", self.seed, prompt, response) >> 10
        return float(ndtri((bits + 0.5) * 2.0**-53))
