"""The contract that every part of Preference Duel shares: types, protocols, keyed random numbers, names and checks.

It imports nothing of the other packages: runners, agents, envs and oracles stand on it.
"""

from typing import TYPE_CHECKING

from preference_duel.keyed_random import Key, Stream
from preference_duel.lazy import lazy
from preference_duel.types import Completion, Conversation, Duel, Feedback, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Agent, Arena, Oracle, Policy

__all__ = [
    "Agent",
    "Arena",
    "Completion",
    "Conversation",
    "Duel",
    "Feedback",
    "Key",
    "Oracle",
    "Policy",
    "Proposal",
    "Stream",
]

__getattr__ = lazy(__name__, dict.fromkeys(("Agent", "Arena", "Oracle", "Policy"), "preference_duel.protocols"))
