"""Demonstrations that are kept likely while a reward is maximised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agents.learning.batch import Batch
from preference_duel.checks import at_least, positive, require
from preference_duel.keyed_random import Key
from preference_duel.types import Completion

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class CorpusConfig:
    """Settings of the likelihood of a corpus."""

    file: str | None = None
    """File of demonstrations: prompt and response a row (docs/data.md); None: no corpus."""

    weight: float = 27.8
    """Weight of their mean log-likelihood, > 0; InstructGPT's gamma, on rewards and texts of its own scale."""

    batch_size: int = 32
    """Demonstrations of a step, drawn with replacement, >= 1; an exact policy takes all of them."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, weight=positive, batch_size=at_least(1))


class Corpus:
    """The negative log-likelihood of demonstrations, a part of a policy's loss.

    Args:
        config: file, weight and batch.
        policy: what learns.

    Raises:
        ValueError: if the file holds no demonstrations, or, with its place, if the policy can't write one.
        OSError: if the file cannot be read.
    """

    def __init__(self, config: CorpusConfig, policy: Policy) -> None:
        from envs.votes.rows import warn_of_skipped  # reads files: --help need not
        from envs.votes.thumbs import load_demonstrations

        assert config.file is not None
        self.config, self.policy = config, policy
        self._rows, reading = load_demonstrations(config.file)
        warn_of_skipped(reading)
        for one in self._rows:
            try:
                policy.require_prompt(one.prompt)
                policy.require_response(Completion(one.response))
            except ValueError as error:
                raise ValueError(f"{one.place}: {error}") from error

    def batch(self, key: Key) -> Batch:
        """Returns the demonstrations of a step."""
        rows = self._rows
        if not self.policy.exact:
            drawn = key.uniform(k=np.arange(self.config.batch_size))
            rows = [self._rows[i] for i in (drawn * len(self._rows)).astype(int).tolist()]
        return Batch([one.prompt for one in rows], [[Completion(one.response)] for one in rows], {})

    def loss(self, part: Batch) -> Tensor:
        """Returns [b] the weighed negative log-likelihood of each demonstration, nats."""
        return -self.config.weight * self.policy.logprob(part.prompts, part.responses)[:, 0]
