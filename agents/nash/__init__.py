"""Agents that seek the equilibrium of a regularised game, one file each."""
