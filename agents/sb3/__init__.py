"""Algorithms of Stable-Baselines3 as agents: its updates, on duels against a pool of older selves."""
