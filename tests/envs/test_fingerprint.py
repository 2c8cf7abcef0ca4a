"""The versions of the environments: what they do is pinned by a hash in their document."""

import re

import gymnasium
import pytest
from gymnasium.utils.env_match import check_environments_match

import envs
from envs import preference_duel_v0
from tests.fingerprint import fingerprint
from tests.paths import DOCS

PAGE = (DOCS / "environment.md").read_text(encoding="utf-8")
VERSIONS = {
    "duel/preference_duel-v0": preference_duel_v0.parallel_env,
    "duel/PreferenceDuel-v0": lambda: gymnasium.make(envs.registration.DUEL).unwrapped,
    "duel/ResponseDuel-v0": lambda: gymnasium.make(envs.registration.RESPONSE).unwrapped,
}


@pytest.mark.parametrize("name", VERSIONS)
def test_a_version_does_what_it_always_did(name):
    """If this fails on purpose, the environment needs a new version and a line in its document's history."""
    (written,) = re.findall(rf"`{name}` \| `([0-9a-f]{{16}})`", PAGE)
    assert fingerprint(VERSIONS[name]()) == written


def test_the_hash_sees_a_changed_verdict():
    one = fingerprint(preference_duel_v0.parallel_env(), 20)
    assert one == fingerprint(preference_duel_v0.parallel_env(), 20)
    env = preference_duel_v0.parallel_env()
    judge = env.duels._judge

    def turned(rows):
        judge(rows)
        if env.duels.episodes[0] == 13:
            env.duels.outcome[rows] = 1 - env.duels.outcome[rows]

    env.duels._judge = turned
    assert fingerprint(env, 20) != one
    assert fingerprint(preference_duel_v0.parallel_env(max_cycles=4), 20) != one


@pytest.mark.parametrize("options", [{}, {"feedback": "probability", "learner": "random"}])
@pytest.mark.parametrize("name", [envs.registration.DUEL, envs.registration.RESPONSE])
def test_environments_of_a_kind_match_over_whole_episodes(name, options):
    one, other = (gymnasium.make(name, task="symbols", oracle="cyclic", **options) for _ in range(2))
    check_environments_match(one, other, num_steps=300, seed=3)
