"""Oracles as reward functions and preference models of other trainers, which are not imported (docs/trainers.md)."""
