"""Keyed random numbers, as agents see them (they live below the oracles, which draw with them too)."""

from oracles.keyed import Key, Stream, hash_seed, uniform

__all__ = ["Key", "Stream", "hash_seed", "uniform"]
