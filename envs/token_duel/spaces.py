"""Observation spaces of the duel, and the place of the action mask."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from gymnasium.spaces import Box, Dict, Space

from envs.token_duel.rules import Rules

Obs = Literal["dict", "flat"]
Mask = Literal["observation", "info", "none"]
LARGEST_MASK = 4096
"""Largest vocabulary with masks by default: above, a mask costs more than the rest of a step."""


def mask_place(obs: Obs, mask: Mask | None, vocab_size: int) -> Mask:
    """Returns the place of the action mask; None chooses by the vocabulary's size.

    Raises:
        ValueError: if the two are unknown or do not fit each other.
    """
    if obs not in get_args(Obs):
        raise ValueError(f"obs must be one of {get_args(Obs)}, got {obs!r}")
    if mask is None:
        if vocab_size > LARGEST_MASK:
            return "none"
        return "observation" if obs == "dict" else "info"
    if mask not in get_args(Mask):
        raise ValueError(f"mask must be None or one of {get_args(Mask)}, got {mask!r}")
    if mask == "observation" and obs == "flat":
        raise ValueError("mask='observation' needs obs='dict': flat observations can't hold it; use 'info'")
    return mask


def player_space(rules: Rules, places: int, obs: Obs, mask: Mask) -> Space:
    """Returns a new space of one player's observations: its board of P + T places, and perhaps the mask."""
    tokens = Box(0, rules.largest_token, (places,), np.int64)
    if obs == "flat":
        return tokens
    if mask != "observation":
        return Dict({"observation": tokens})
    return Dict({"observation": tokens, "action_mask": Box(0, 1, (rules.vocab_size,), np.int8)})


def board_space(space: Space) -> Space:
    """Returns the part of a player's observation space that is its board."""
    return space["observation"] if isinstance(space, Dict) else space
