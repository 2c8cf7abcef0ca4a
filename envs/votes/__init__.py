"""Votes: rows of people's or judges' pairwise verdicts, and what they say."""

from typing import TYPE_CHECKING

from preference_duel.lazy import lazy

if TYPE_CHECKING:
    from envs.votes.options import ReadOptions
    from envs.votes.preferences import Preference, load_preferences, load_prompts, read_preferences
    from envs.votes.rows import Reading
    from envs.votes.table import VoteTable
    from envs.votes.vote_files import load_votes, read_votes

__all__ = [
    "Preference",
    "ReadOptions",
    "Reading",
    "VoteTable",
    "load_preferences",
    "load_prompts",
    "load_votes",
    "read_preferences",
    "read_votes",
]

__getattr__ = lazy(
    __name__,
    {
        "Preference": "envs.votes.preferences",
        "ReadOptions": "envs.votes.options",
        "Reading": "envs.votes.rows",
        "VoteTable": "envs.votes.table",
        "load_preferences": "envs.votes.preferences",
        "load_prompts": "envs.votes.preferences",
        "load_votes": "envs.votes.vote_files",
        "read_preferences": "envs.votes.preferences",
        "read_votes": "envs.votes.vote_files",
    },
)
