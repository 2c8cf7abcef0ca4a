"""Convergent meta alignment: a proximal loop around a regularised agent, whose reference follows the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents.nash.inpo import INPO, INPOConfig
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class COMALConfig:
    """Convergent meta alignment (Liu et al. 2024, arXiv:2410.23223): the unregularised Nash policy, last iterate."""

    renew_every: int = 12
    """Updates of the inner agent between renewals of its reference, >= 1; the paper takes 12 on its synthetic game."""

    inner: INPOConfig = field(default_factory=INPOConfig)
    """The regularised agent whose game's reference is renewed (the paper's inner solver is INPO, too)."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if self.renew_every < 1:
            raise ValueError(f"renew_every must be at least 1, got {self.renew_every}")

    def build(self, *, policy: Policy, seed: int = 0) -> COMAL:
        """Builds the agent around the policy that it trains."""
        return COMAL(self, policy, seed)


class COMAL:
    """Solves games regularised towards where the last one ended.

    Attributes:
        policy: what is trained.
        average: the inner agent's.
        inner: the regularised agent.
    """

    def __init__(self, config: COMALConfig, policy: Policy, seed: int) -> None:
        self.config, self.policy = config, policy
        self.inner = INPO(config.inner, policy, seed)
        self.average = self.inner.average
        self._updates = 0

    @property
    def batchable(self) -> bool:
        """The inner agent's."""
        return self.inner.batchable

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns the inner agent's proposal."""
        return self.inner.propose(prompts)

    def update(self, duel: Duel) -> dict[str, float]:
        """Updates the inner agent, and renews its reference when its time has come.

        Raises:
            ValueError: as `INPO.update`.
        """
        scalars = self.inner.update(duel)
        self._updates += 1
        if self._updates % self.config.renew_every == 0:
            self.inner.begin_stage()
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the inner agent's state and the number of updates."""
        return {"inner": self.inner.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.inner.load_state_dict(state["inner"])
        self._updates = int(state["updates"])
