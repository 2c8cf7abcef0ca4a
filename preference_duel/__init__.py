"""The contract that every part of Preference Duel shares: types, protocols, keyed random numbers, names and checks.

It imports nothing of the other packages: runners, agents, envs and oracles stand on it.
"""

from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Agent, Arena, Oracle, Policy
from preference_duel.types import Completion, Conversation, Duel, Feedback, Proposal

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
