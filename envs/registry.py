"""Names and configurations, as agents and runners see them (they live below the oracles, which use them too)."""

from oracles.registry import UnknownNameError, configure, find, nearest

__all__ = ["UnknownNameError", "configure", "find", "nearest"]
