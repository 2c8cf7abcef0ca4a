"""The preference duel: tasks, the arena and the token-level environment."""

from envs.arena import DuelArena
from envs.tasks import Task, make_task
from envs.types import Completion, Duel, Feedback, Proposal

__all__ = ["Completion", "Duel", "DuelArena", "Feedback", "Proposal", "Task", "make_task"]
