"""Oracles: who would be preferred. `make` builds one, `payoff` and `outcomes` ask it, `check_oracle` tests it."""

from oracles.base import Oracle, outcomes, payoff
from oracles.check import check_oracle
from oracles.keyed import Key, Stream
from oracles.names import make

__all__ = ["Key", "Oracle", "Stream", "check_oracle", "make", "outcomes", "payoff"]
