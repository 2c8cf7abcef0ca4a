"""Builders of the two-player environments over the free task and the remembering oracle."""

from functools import partial

import pytest

from envs import preference_duel_v0


@pytest.fixture
def make(words, oracle):
    """Builds the environment over the free task, limit 4, and the remembering oracle."""
    return partial(preference_duel_v0.parallel_env, task=words(), oracle=oracle)


@pytest.fixture
def make_aec(words, oracle):
    return partial(preference_duel_v0.env, task=words(), oracle=oracle)
