"""The token-level duel in the interfaces of PettingZoo, Gymnasium and Stable-Baselines3."""
