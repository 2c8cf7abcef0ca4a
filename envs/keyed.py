"""Keyed random numbers, as agents see them (they live below the oracles, which draw with them too)."""

from oracles.keyed import Key, Rows, Stream, Worlds, hash_seed, uniform

__all__ = ["Key", "Rows", "Stream", "Worlds", "hash_seed", "uniform"]
