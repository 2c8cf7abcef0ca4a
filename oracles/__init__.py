"""Oracles of preferences. `make` builds one, `payoff` and `outcomes` ask it, `check_oracle` tests it."""

from typing import TYPE_CHECKING

from oracles.registry import make
from preference_duel.keyed_random import Key, Stream
from preference_duel.lazy import lazy

if TYPE_CHECKING:
    from oracles.base import outcomes, payoff
    from oracles.check import check_oracle
    from preference_duel.protocols import Oracle

__all__ = ["Key", "Oracle", "Stream", "check_oracle", "make", "outcomes", "payoff"]

__getattr__ = lazy(
    __name__,
    {
        "Oracle": "preference_duel.protocols",
        "check_oracle": "oracles.check",
        "outcomes": "oracles.base",
        "payoff": "oracles.base",
    },
)
