"""The token-level duel: its rules, its batched core, chance and opponents."""
