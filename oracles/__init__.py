"""Oracles: who would be preferred. `make` builds one, `payoff` and `outcomes` ask it, `check_oracle` tests it."""

from oracles.base import Oracle, make, outcomes, payoff
from oracles.check import check_oracle
from oracles.keyed import Key, Stream

__all__ = ["Key", "Oracle", "Stream", "check_oracle", "make", "outcomes", "payoff"]
