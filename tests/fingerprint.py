"""The fingerprint of an environment: a hash of its observations, rewards, flags and verdicts."""

from __future__ import annotations

import hashlib
from typing import Any

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

from preference_duel.keyed_random import Key

_SEED = 20_260_101


def fingerprint(env: Any, episodes: int = 200) -> str:
    """Returns 16 hexadecimal digits that change when an environment does: observations, rewards, flags or verdicts.

    Actions are keyed uniforms over the whole action space, illegal ones included; the environment is reset with a
    fixed seed once, so that the counting of episodes is part of it.

    Args:
        env: a ParallelEnv or a Gymnasium environment of the duel, with outcome feedback.
        episodes: how many are played.
    """
    digest = hashlib.sha256()
    for episode in range(episodes):
        _add(digest, env.reset(seed=_SEED if episode == 0 else None)[0])
        over, step, infos = False, 0, {}
        while not over:
            chance = Key(_SEED, episode).uniform(k=step, vote=np.arange(64))
            observations, rewards, terminations, truncations, infos = env.step(_actions(env, chance))
            _add(digest, observations, rewards, terminations, truncations)
            over, step = _any(terminations), step + 1
        _add(digest, (infos["player_0"] if isinstance(env, ParallelEnv) else infos)["outcome"])
    return digest.hexdigest()[:16]


def _actions(env: Any, chance: np.ndarray) -> Any:
    if isinstance(env, ParallelEnv):
        spaces = [env.action_space(agent) for agent in env.possible_agents]
        drawn = (int(u * space.n) for u, space in zip(chance, spaces, strict=False))  # pyright: ignore[reportAttributeAccessIssue] - Discrete
        return dict(zip(env.possible_agents, drawn, strict=True))
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return int(chance[0] * env.action_space.n)
    return (chance[: len(env.action_space.nvec)] * env.action_space.nvec).astype(np.int64)


def _any(flags: Any) -> bool:
    return any(flags.values()) if isinstance(flags, dict) else bool(flags)


def _add(digest: Any, *values: Any) -> None:
    """Adds values to a hash, dicts in the order of their keys, numbers as little-endian float64."""
    for value in values:
        if isinstance(value, dict):
            for key in sorted(value):
                digest.update(key.encode())
                _add(digest, value[key])
        else:
            digest.update(np.asarray(value, dtype="<f8").tobytes())
