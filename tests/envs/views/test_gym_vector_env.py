"""Many one-player duels: the same as Gymnasium's own vector over the single environment, step by step."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch

import envs
import envs.token_duel.opponents
from agents.policies.tabular import TabularPolicy
from envs import make_task
from envs.token_duel.opponents import Pool, Uniform
from envs.token_duel.rules import Rules
from envs.views.gym_vector_env import SoloVector, solo_vector
from tests.envs.duels import SYMBOLS, require_apart, require_equal


@pytest.fixture
def vectors(words, oracle):
    """The native vector and Gymnasium's own over the same duels, of free length."""

    def build(count=5, **options):
        options = {"task": words(), "oracle": oracle, **options}
        return (
            gymnasium.make_vec(envs.registration.DUEL, num_envs=count, **options),
            gymnasium.make_vec(envs.registration.DUEL, num_envs=count, vectorization_mode="sync", **options),
        )

    return build


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"learner": "random", "feedback": "probability"}, marks=pytest.mark.slow),
        pytest.param({"learner": "player_1", "obs": "flat"}, marks=pytest.mark.slow),
        {"mask": "none", "opponent": ["ab", "c", "cccc"]},
        pytest.param({"max_episode_steps": 2}, marks=pytest.mark.slow),
        {"max_episode_steps": 3, "learner": "random", "illegal": "replace"},
    ],
)
def test_ten_thousand_steps_are_those_of_gymnasiums_own_vector(vectors, options):
    native, own = vectors(**options)
    assert isinstance(native.unwrapped, SoloVector)
    assert native.observation_space == own.observation_space
    assert native.action_space == own.action_space
    rng = np.random.default_rng(0)
    require_equal(native.reset(seed=3), own.reset(seed=3), "reset")
    for step in range(2_000):
        actions = rng.integers(0, native.single_action_space.n, 5)
        require_equal(native.step(actions), own.step(actions), f"step {step}")


def test_some_duels_are_reset_as_gymnasiums_own_vector_does(vectors):
    native, own = vectors(count=4)
    rng, mask = np.random.default_rng(1), np.array([True, False, True, False])
    for vector in (native, own):
        vector.reset(seed=8)
    for step in range(60):
        if step % 7 == 3:
            seed = [step, None, None, 5] if step % 2 else None
            results = [vector.reset(seed=seed, options={"reset_mask": mask}) for vector in (native, own)]
        else:
            actions = rng.integers(0, native.single_action_space.n, 4)
            results = [vector.step(actions) for vector in (native, own)]
        require_equal(*results, f"step {step}")


@pytest.mark.parametrize("exact", [True, False])
def test_opponents_say_the_same_alone_and_in_a_batch(exact):
    task = make_task("symbols", alphabet=3, length=2, prompts=2)
    policy = TabularPolicy(task, torch.arange(1, 10, dtype=torch.float64) / 45, exact=exact)
    pool = Pool([Uniform(Rules.of(task)), envs.token_duel.opponents.opponent(policy, task, Rules.of(task))], [1, 2])
    options = {"task": task, "oracle": "cyclic", "opponent": pool, "learner": "random"}
    native = gymnasium.make_vec(envs.registration.DUEL, num_envs=9, **options)
    own = gymnasium.make_vec(envs.registration.DUEL, num_envs=9, vectorization_mode="sync", **options)
    for vector in (native, own):
        vector.reset(seed=0)
    for step in range(30):
        actions = native.action_space.sample()
        require_equal(native.step(actions), own.step(actions), f"step {step}")


def test_nothing_that_is_handed_out_is_shared(vectors):
    native, _ = vectors(mask="info")
    seen = [native.reset(seed=0)]
    seen += [native.step(native.action_space.sample()) for _ in range(12)]
    require_apart([seen, native.unwrapped.get_state()])


def test_another_opponent_and_the_words_of_every_duel():
    vector = solo_vector(3, render_mode="ansi", opponent=["aaa"], **SYMBOLS)
    vector.set_opponent(["bbb"])
    vector.reset(seed=0)
    for _ in range(3):
        vector.step(vector.action_space.sample())
    texts = vector.render()
    assert len(texts) == 3
    assert all("player_1  bbb (limit)" in text and "is preferred" in text for text in texts)


def test_bad_input_is_named(vectors):
    native = vectors(count=2)[0].unwrapped
    with pytest.raises(RuntimeError, match="call reset"):
        native.step(np.zeros(2, int))
    native.reset(seed=0)
    for actions, message in (
        (np.zeros(3, int), r"actions must be \[2\] integers"),
        (np.zeros((2, 2), int), r"actions must be \[2\] integers"),
        (np.zeros(2), r"actions must be \[2\] integers"),
        (np.array([0, 99]), "tokens must be"),
        (np.array([0, -1]), "tokens must be"),
    ):
        with pytest.raises(ValueError, match=message):
            native.step(actions)
    for options, message in (
        ({"mask": [True, False]}, "knows the option 'reset_mask'"),
        ({"reset_mask": [True, False]}, "must be a NumPy array"),
        ({"reset_mask": np.zeros(2, bool)}, "with a True in it"),
        ({"reset_mask": np.ones(3, bool)}, "must be a NumPy array"),
    ):
        with pytest.raises(ValueError, match=message):
            native.reset(options=options)
    with pytest.raises(ValueError, match="one for each of 2 duels"):
        native.reset(seed=[1, 2, 3])
    for options, message in (({"num_envs": 0}, "at least 1 duel"), ({"render_mode": "human"}, "render_mode must be")):
        with pytest.raises(ValueError, match=message):
            solo_vector(**{"num_envs": 2, **SYMBOLS, **options})

    class Wrong:
        def respond(self, prompts, key):
            return [[0]]

    native.set_opponent(Wrong())
    with pytest.raises(ValueError, match="one response for each of 2 prompts, got 1"):
        native.reset()


def test_an_unseeded_vector_has_other_seeds_in_every_row():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vector = solo_vector(64, **SYMBOLS)
    vector.reset()
    assert vector.get_state()["seeds"].tolist() == list(range(64))


def test_a_limit_of_steps_is_part_of_state_and_clones(vectors):
    vector = vectors(max_episode_steps=3)[0].unwrapped
    vector.reset(seed=0)
    actions = np.full(5, vector.solo.duels.rules.masks[0].argmax())
    vector.step(actions)
    state, twin = vector.get_state(), vector.clone()
    results = [[vector.step(actions) for _ in range(4)], [twin.step(actions) for _ in range(4)]]
    vector.set_state(state)
    results.append([vector.step(actions) for _ in range(4)])
    require_equal(results[0], results[1], "clone")
    require_equal(results[0], results[2], "state")
    assert any(truncated.any() for _, _, _, truncated, _ in results[0])
    with pytest.raises(ValueError, match="max_episode_steps must be at least 1, or None, got 0"):
        solo_vector(2, **SYMBOLS, max_episode_steps=0)


def test_an_unknown_option_is_named_with_its_neighbour():
    with pytest.raises(TypeError, match=r"a duel has no option 'oracel'; did you mean 'oracle'\? Its options are"):
        solo_vector(2, oracel="cyclic")
