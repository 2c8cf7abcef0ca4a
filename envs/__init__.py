"""The preference duel: tasks, the arena and the token-level environment.

On import it is registered with PettingZoo and with Gymnasium.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from envs import preference_duel_v0
from envs.arena import DuelArena
from envs.tasks.task import Task, make_task
from envs.token_duel.duels import TokenDuels
from envs.views import bandit_env, gym_env  # noqa: F401 - each registers its Gymnasium id
from preference_duel.keyed_random import Key
from preference_duel.types import Completion, Conversation, Duel, Feedback, Proposal

if TYPE_CHECKING:
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

_LAZY = {
    "OneHot": "envs.views.one_hot",
    "TokenExtractor": "envs.views.sb3_vec_env",
    "TorchDuels": "envs.token_duel.duels_torch",
    "sb3_env": "envs.views.sb3_vec_env",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
