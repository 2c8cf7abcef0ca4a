"""Oracles: who would be preferred. `make` builds one, `payoff` and `outcomes` ask it, `check_oracle` tests it."""

from oracles.base import outcomes, payoff
from oracles.check import check_oracle
from oracles.registry import make
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Oracle

__all__ = ["Key", "Oracle", "Stream", "check_oracle", "make", "outcomes", "payoff"]
