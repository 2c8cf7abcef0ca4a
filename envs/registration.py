"""Registration of the environments with Gymnasium and PettingZoo."""

from __future__ import annotations

import gymnasium
import pettingzoo
from pettingzoo.env_registry.registration import aec_registry

DUEL, RESPONSE = "duel/PreferenceDuel-v0", "duel/ResponseDuel-v0"
PETTINGZOO = "duel/preference_duel-v0"


def register() -> None:
    """Registers the ids once; an environment is imported when it is made."""
    if DUEL not in gymnasium.registry:
        vector = "envs.views.gym_vector_env:solo_vector"
        gymnasium.register(DUEL, entry_point="envs.views.gym_env:solo_env", vector_entry_point=vector)
        gymnasium.register(RESPONSE, entry_point="envs.views.bandit_env:response_env")
    if PETTINGZOO not in aec_registry:
        pettingzoo.register("aec", PETTINGZOO, "envs.preference_duel_v0:env")
        pettingzoo.register("parallel", PETTINGZOO, "envs.preference_duel_v0:parallel_env")
