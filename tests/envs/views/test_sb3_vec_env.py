"""Stable-Baselines3: the native VecEnv against its DummyVecEnv, the extractor, and models that play the other seat."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from envs import make_task
from envs.token_duel.rules import Rules
from envs.token_duel.sb3_opponent import ModelOpponent, next_token_probs
from envs.views.gym_env import solo_env
from envs.views.sb3_vec_env import SoloVecEnv, TokenExtractor, sb3_env
from preference_duel.keyed_random import Rows, Stream
from tests.conftest import with_a_fast_few
from tests.envs.duels import SYMBOLS, require_equal

EXTRACTOR = {"features_extractor_class": TokenExtractor}


@pytest.fixture
def pair(words, oracle):
    """The native environment and SB3's own over the same duels, of free length."""

    def build(count=4, **options):
        options = {"task": words(), "oracle": oracle, **options}
        return sb3_env(count, **options), DummyVecEnv([lambda: solo_env(**options)] * count)

    return build


@pytest.mark.parametrize(
    "options",
    with_a_fast_few(
        [
            {},
            {"learner": "random", "feedback": "probability"},
            {"learner": "player_1", "obs": "flat"},
            {"mask": "none"},
        ],
        2,
    ),
)
def test_every_step_is_that_of_sb3s_own_vector(pair, options):
    native, own = pair(**options)
    assert native.observation_space == own.observation_space
    assert native.action_space == own.action_space
    for env in (native, own):
        env.seed(6)
    require_equal(native.reset(), own.reset(), "reset")
    rng = np.random.default_rng(0)
    for step in range(1_000):
        require_equal(native.reset_infos, own.reset_infos, "reset_infos")
        require_equal(get_action_masks(native).tolist(), get_action_masks(own).tolist(), "masks")
        actions = rng.integers(0, native.action_space.n, 4)
        require_equal(list(native.step(actions)), list(own.step(actions)), f"step {step}")


@pytest.mark.parametrize(("kind", "obs"), [(PPO, "dict"), (A2C, "flat"), (DQN, "dict"), (MaskablePPO, "dict")])
def test_algorithms_learn_on_it(kind, obs):
    env = VecMonitor(sb3_env(4, obs=obs, **SYMBOLS))
    assert is_masking_supported(env)
    few = {"learning_starts": 8} if kind is DQN else {"n_steps": 8}
    few |= {"batch_size": 16} if kind in (PPO, MaskablePPO) else {}
    policy = "MlpPolicy" if obs == "flat" else "MultiInputPolicy"
    model = kind(policy, env, policy_kwargs=EXTRACTOR, seed=0, **few)
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(64)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_info_buffer) > 0


def test_the_extractor_embeds_ids_and_never_reads_the_mask():
    env = sb3_env(2, task="symbols", oracle="cyclic")
    extractor = TokenExtractor(env.observation_space, width=3)
    board = torch.tensor(env.reset()["observation"])
    rows = extractor({"observation": board.float(), "action_mask": torch.zeros(1)})
    assert rows.shape == (2, extractor.features_dim)
    assert rows[0, :3].tolist() == extractor.embedding.weight[board[0, 0]].tolist()
    assert extractor.embedding.num_embeddings == env.observation_space["observation"].high.max() + 1


@pytest.mark.parametrize("kind", [PPO, MaskablePPO])
def test_a_model_plays_as_often_as_its_probabilities_say(kind):
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    rules = Rules.of(task)
    model = kind("MultiInputPolicy", sb3_env(1, task=task, oracle="cyclic"), policy_kwargs=EXTRACTOR, seed=1)
    with torch.no_grad():
        model.policy.action_net.weight.normal_(std=0.5)
    opponent = ModelOpponent(model, task, rules)
    count = 6_000
    key = Rows(seeds=np.zeros(count, np.uint64), episode=np.arange(count), stream=Stream.OPPONENT)
    drawn = opponent.respond(task.prompts * count, key).tolist()
    assert drawn[7:9] == opponent.respond(task.prompts * 2, key.some(np.array([7, 8]))).tolist()
    assert {task.tokenizer.decode(row) for row in drawn} <= {"aa", "ab", "ba", "bb"}
    prompt, fill = task.tokenizer.encode(task.prompts[0]), rules.fill
    legal = rules.masks[:1]
    played = rules.written[0]
    first = next_token_probs(model.policy, np.array([[*prompt, fill, fill]]), legal)[0].detach()
    total = 0.0
    for a in task.tokenizer.encode("ab"):
        after = next_token_probs(model.policy, np.array([[*prompt, a, fill]]), legal)[0].detach()
        for b in task.tokenizer.encode("ab"):
            expected = first[played == a].sum() * after[played == b].sum()
            total += expected
            assert drawn.count([a, b]) / count == pytest.approx(float(expected), abs=0.025)
    assert float(total) == pytest.approx(1)


def test_dqn_plays_its_best_token():
    env = sb3_env(1, **SYMBOLS)
    model = DQN("MultiInputPolicy", env, policy_kwargs=EXTRACTOR, seed=0, buffer_size=10)
    boards = env.reset()
    probs = next_token_probs(model.policy, boards["observation"], boards["action_mask"])
    assert probs.argmax(1).tolist() == model.predict(boards, deterministic=True)[0].tolist()
    assert probs.sum() == 1


def test_a_model_sits_in_the_other_seat_of_every_view():
    env = sb3_env(3, **SYMBOLS)
    model = MaskablePPO("MultiInputPolicy", env, policy_kwargs=EXTRACTOR, seed=0)
    env.env_method("set_opponent", model)
    env.seed(5)
    env.reset()
    singles = [solo_env(opponent=model, **SYMBOLS) for _ in range(3)]
    for i, single in enumerate(singles):
        single.reset(seed=5 + i)
        assert single.solo.responses[0].tolist() == env.solo.responses[i].tolist()


def test_models_of_other_tasks_are_refused():
    model = PPO("MultiInputPolicy", sb3_env(1, task="symbols", oracle="cyclic"), n_steps=4, batch_size=4)
    with pytest.raises(ValueError, match=r"plays .* tokens on boards .* train it on this task"):
        solo_env(task=make_task("symbols", alphabet=3), oracle="cyclic", opponent=model)

    class Line(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (4,)), Discrete(2)

    with pytest.raises(ValueError, match="train it on this task"):
        solo_env(opponent=A2C("MlpPolicy", Line()), **SYMBOLS)


def test_bad_input_is_named(pair):
    env = pair()[0]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(4, int))
    env.reset()
    for actions in (np.zeros(3, int), np.zeros((4, 1), int), np.zeros(4)):
        with pytest.raises(ValueError, match=r"actions must be \[4\] integers"):
            env.step(actions)
    with pytest.raises(ValueError, match="tokens must be"):
        env.step(np.full(4, 77))
    with pytest.raises(AttributeError, match="action_masks, render and set_opponent"):
        env.env_method("seed", 3)
    with pytest.raises(AttributeError, match="can't set 'x'"):
        env.set_attr("x", 1)
    env.set_options({"mask": 1})
    with pytest.raises(ValueError, match="knows no options"):
        env.reset()
    for options, message in (({"num_envs": 0}, "at least 1 duel"), ({"render_mode": "human"}, "render_mode must be")):
        with pytest.raises(ValueError, match=message):
            sb3_env(**{"num_envs": 2, **SYMBOLS, **options})
    assert isinstance(env, SoloVecEnv)
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False] * 4
