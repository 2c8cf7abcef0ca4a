"""Supervised training of oracles and of the shipped models."""
