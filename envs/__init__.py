"""The preference duel: tasks, the arena and the token-level environment.

On import it is registered with PettingZoo and with Gymnasium.
"""

from typing import TYPE_CHECKING

from envs import registration
from envs.tasks.task import Task, make_task
from preference_duel.keyed_random import Key
from preference_duel.lazy import lazy
from preference_duel.types import Completion, Conversation, Duel, Feedback, Proposal

if TYPE_CHECKING:
    from envs import preference_duel_v0
    from envs.arena import DuelArena
    from envs.token_duel.duels import TokenDuels
    from envs.token_duel.duels_torch import TorchDuels
    from envs.views.one_hot import OneHot
    from envs.views.sb3_vec_env import TokenExtractor, sb3_env

__all__ = [
    "Completion",
    "Conversation",
    "Duel",
    "DuelArena",
    "Feedback",
    "Key",
    "OneHot",
    "Proposal",
    "Task",
    "TokenDuels",
    "TokenExtractor",
    "TorchDuels",
    "make_task",
    "preference_duel_v0",
    "sb3_env",
]

__getattr__ = lazy(
    __name__,
    {
        "DuelArena": "envs.arena",
        "OneHot": "envs.views.one_hot",
        "TokenDuels": "envs.token_duel.duels",
        "TokenExtractor": "envs.views.sb3_vec_env",
        "TorchDuels": "envs.token_duel.duels_torch",
        "preference_duel_v0": "envs.preference_duel_v0",
        "sb3_env": "envs.views.sb3_vec_env",
    },
)

registration.register()
