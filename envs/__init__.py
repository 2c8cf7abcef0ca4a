"""The preference duel: tasks, the arena and the token-level environment.

On import it is registered with PettingZoo and with Gymnasium.
"""

from envs import preference_duel_v0, response_duel, solo
from envs.arena import DuelArena
from envs.core import TokenDuels
from envs.tasks import Task, make_task
from envs.types import Completion, Conversation, Duel, Feedback, Proposal

__all__ = [
    "Completion",
    "Conversation",
    "Duel",
    "DuelArena",
    "Feedback",
    "Proposal",
    "Task",
    "TokenDuels",
    "make_task",
    "preference_duel_v0",
    "response_duel",
    "solo",
]
