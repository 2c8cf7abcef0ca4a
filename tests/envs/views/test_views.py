"""One game, twelve views: the same seed and tokens have the same prompt and verdict, and the promises hold in each."""

import itertools
import json
import os
import subprocess
import sys
import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
from envs import Completion, DuelArena, Proposal, TokenDuels, preference_duel_v0
from envs.token_duel.duels_torch import TorchDuels
from envs.views.bandit_env import response_env
from envs.views.gym_env import solo_env
from envs.views.gym_vector_env import solo_vector
from envs.views.sb3_vec_env import sb3_env
from tests.envs.duels import COPIES, PLAYERS, SYMBOLS, A, B, C, require_apart
from tests.paths import ROOT

EPISODES = 12
RANDOM_SEAT = {"learner": "random", "feedback": "probability"}


def whole(task, text):
    return [*task.tokenizer.encode(text), task.tokenizer.eos_id][: task.max_new_tokens]


def moves(task, *texts):
    """Yields the tokens of each step: those of the texts, then EOS."""
    yield from itertools.zip_longest(*(whole(task, text) for text in texts), fillvalue=task.tokenizer.eos_id)
    yield from itertools.repeat((task.tokenizer.eos_id,) * len(texts))


def shown(task, board):
    return task.tokenizer.decode([int(token) for token in board[: task.max_prompt_tokens]])


class Script:
    """An opponent that plays the n-th text in episode n."""

    def __init__(self, task, texts):
        self.responses = [whole(task, text) for text in texts]

    def respond(self, prompts, key):
        return [self.responses[episode % len(self.responses)] for episode in key.episode.tolist()]


# Each view plays a plan (the texts of both players, by episode) and yields prompt, reward of player_0 and outcome.


def parallel(task, oracle, seed, plan):
    env = preference_duel_v0.parallel_env(task=task, oracle=oracle)
    for episode, texts in enumerate(plan):
        observations, _ = env.reset(seed=seed if episode == 0 else None)
        tokens = moves(task, *texts)
        while env.agents:
            _, rewards, over, cut, infos = env.step(dict(zip(PLAYERS, next(tokens), strict=True)))
            assert len(set(over.values())) == 1
            assert not any(cut.values())
        assert rewards["player_0"] == -rewards["player_1"]
        yield shown(task, observations["player_0"]["observation"]), rewards["player_0"], infos["player_0"]["outcome"]


def aec(task, oracle, seed, plan):
    env = preference_duel_v0.env(task=task, oracle=oracle)
    for episode, texts in enumerate(plan):
        env.reset(seed=seed if episode == 0 else None)
        prompt, tokens = shown(task, env.observe("player_0")["observation"]), moves(task, *texts)
        while not all(env.terminations.values()):
            for token in next(tokens):
                env.step(token)
        assert not any(env.truncations.values())
        assert env.rewards["player_0"] == -env.rewards["player_1"]
        yield prompt, env.rewards["player_0"], env.infos["player_0"]["outcome"]


def single(learner):
    def play(task, oracle, seed, plan):
        sign = 1 if learner == "player_0" else -1
        mine, theirs = list(zip(*plan, strict=True))[::sign]
        options = {"task": task, "oracle": oracle, "learner": learner, "opponent": Script(task, theirs)}
        env = gymnasium.make(envs.registration.DUEL, **options)
        for episode, text in enumerate(mine):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            over, tokens = False, moves(task, text)
            while not over:
                _, reward, over, cut, info = env.step(*next(tokens))
                assert not cut
            yield shown(task, observation["observation"]), sign * reward, info["outcome"]

    return play


def bandit(task, oracle, seed, plan):
    mine, theirs = zip(*plan, strict=True)
    env = response_env(task=task, oracle=oracle, candidates=mine, opponent=Script(task, theirs))
    for episode in range(len(plan)):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        _, reward, over, cut, info = env.step(episode)
        assert (over, cut) == (True, False)
        yield shown(task, observation), reward, info["outcome"]


def vector(mode):
    def play(task, oracle, seed, plan):
        mine, theirs = zip(*plan, strict=True)
        options = {"task": task, "oracle": oracle, "opponent": Script(task, theirs)}
        env = gymnasium.make_vec(envs.registration.DUEL, num_envs=3, vectorization_mode=mode, **options)
        for episode, text in enumerate(mine):
            observations, _ = env.reset(seed=[9, seed, 10] if episode == 0 else None)
            over, tokens = [False] * 3, moves(task, text)
            while not over[1]:
                _, rewards, over, cut, infos = env.step(np.full(3, *next(tokens)))
                assert not cut.any()
            yield shown(task, observations["observation"][1]), rewards[1], infos["outcome"][1]

    return play


def sb3(build):
    def play(task, oracle, seed, plan):
        mine, theirs = zip(*plan, strict=True)
        env = build(task=task, oracle=oracle, opponent=Script(task, theirs))
        env.seed(seed)
        observations = env.reset()
        for text in mine:
            over, tokens, prompt = [False], moves(task, text), shown(task, observations["observation"][0])
            while not over[0]:
                observations, rewards, over, infos = env.step(np.full(2, *next(tokens)))
                assert infos[0]["TimeLimit.truncated"] is False
            yield prompt, rewards[0], infos[0]["outcome"]

    return play


def arena(task, oracle, seed, plan):
    env = DuelArena(task, oracle, 1, seed=seed)
    for mine, theirs in plan:
        (prompt,) = env.reset()
        duel = env.play(Proposal([[Completion(mine)]], [[Completion(theirs)]]))
        yield prompt, 2 * duel.prob.item() - 1, duel.prob.item()


def core(kind, convert):
    def play(task, oracle, seed, plan):
        duels = kind(task, oracle, 2)
        duels.seed([seed, 77])
        for texts in plan:
            duels.reset()
            prompt, tokens = shown(task, duels.board[0, 0]), moves(task, *texts)
            while duels.outcome[0] < 0:
                duels.step(convert(np.array([next(tokens)] * 2)))
            gain = duels.rewards(convert(np.array([0])))[0].tolist()
            assert gain[0] == -gain[1]
            yield prompt, gain[0], duels.outcome[0].item()

    return play


VIEWS = {
    "Parallel": parallel,
    "AEC": aec,
    "Gymnasium": single("player_0"),
    "Gymnasium, other seat": single("player_1"),
    "bandit": bandit,
    "sync vector": vector("sync"),
    "native vector": vector(None),
    "SB3's DummyVecEnv": sb3(lambda **options: DummyVecEnv([lambda: solo_env(**options)] * 2)),
    "SB3 VecEnv": sb3(partial(sb3_env, 2)),
    "arena": arena,
    "numpy": core(TokenDuels, np.asarray),
    "torch": core(TorchDuels, torch.from_numpy),
}


def plans(seed):
    """Responses of every pair of lengths, the limit (4) included."""
    rng, lengths = np.random.default_rng(seed), list(itertools.product(range(5), repeat=2))
    chosen = [lengths[i] for i in rng.permutation(len(lengths))[:EPISODES]]
    return [tuple("".join(rng.choice(list("abc"), length)) for length in pair) for pair in chosen]


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_has_the_same_prompts_and_verdicts(words, oracle, name):
    outcomes = set()
    for seed in (0, 5, 2**40 + 1):
        plan = plans(seed % 7)
        expected = list(arena(words(), oracle, seed, plan))
        episodes = [tuple(row) for row in VIEWS[name](words(), oracle, seed, plan)]
        assert episodes == expected
        outcomes |= {row[2] for row in episodes}
    assert outcomes == {0, 1}


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_asks_the_oracle_once_for_each_duel(words, oracle, name):
    plan = plans(1)
    played = list(VIEWS[name](words(), oracle, 3, plan))
    questions = [triple for call in oracle.calls for triple in call]
    for (prompt, _, _), (mine, theirs) in zip(played, plan, strict=True):
        assert (prompt, mine, theirs) in questions
    duels = {"sync vector": 3, "native vector": 3, "SB3's DummyVecEnv": 2, "SB3 VecEnv": 2, "numpy": 2, "torch": 2}
    spot_checks = 8 if name == "arena" else 0  # the arena looks at both orders now and then
    assert len(questions) <= len(plan) * duels.get(name, 1) + spot_checks


@pytest.mark.slow
def test_other_processes_have_the_same_prompts_and_verdicts():
    command = [sys.executable, "-c", SCRIPT]
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in "12"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) for env in environments]
    first, second = (run.communicate(timeout=240)[0] for run in runs)
    episodes = json.loads(first)
    assert first == second
    assert len({json.dumps(rows) for rows in episodes.values()}) == 1
    assert {verdict for _, verdict in episodes["Parallel"]} == {0, 1}


SCRIPT = """
import json
from envs import make_task
from oracles import make
from tests.envs.views.test_views import VIEWS
task = make_task("symbols", alphabet=3, length=3, prompts=2)
oracle = make("cyclic", prompts=task.all_prompts, responses=task.response_texts)
plan = [("abc", "bca"), ("aaa", "ccc"), ("cba", "cab"), ("bbb", "abb"), ("aca", "bcb"), ("cca", "aab")]
rows = {name: view(task, oracle, 11, plan) for name, view in VIEWS.items()}
print(json.dumps({name: [(row[0], int(row[2])) for row in episodes] for name, episodes in rows.items()}))
"""


def boards(observations):
    return observations["observation"] if isinstance(observations, dict) else observations


BATCHES = {"native vector": solo_vector, "SB3 VecEnv": sb3_env}


@pytest.mark.parametrize("build", BATCHES.values(), ids=BATCHES)
def test_an_opponents_tokens_are_never_seen_in_a_batch(words, oracle, build):
    envs_ = [build(3, task=words(least=4), oracle=oracle, opponent=[text]) for text in ("aaaa", "cbac")]
    starts = [env.reset() for env in envs_]
    assert np.array_equal(*(boards(start[0] if isinstance(start, tuple) else start) for start in starts))
    for token in (2, 3, 4):
        steps = [env.step(np.full(3, token)) for env in envs_]
        assert np.array_equal(*(boards(step[0]) for step in steps))
        assert not steps[0][2].any()


@pytest.mark.parametrize(
    ("name", "build", "options"),
    [
        *((envs.registration.DUEL, solo_env, options) for options in ({}, {"obs": "flat"}, RANDOM_SEAT)),
        *((envs.registration.RESPONSE, response_env, options) for options in ({}, {"actions": "tokens"}, RANDOM_SEAT)),
    ],
)
def test_the_public_suites_pass(name, build, options):
    options = {**SYMBOLS, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name, **options).unwrapped, skip_render_check=True)
        check_sb3(build(**options))
    env = build(**options)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, gymnasium.spaces.Dict) else "MlpPolicy"
    PPO(policy, env, n_steps=16, batch_size=16, n_epochs=1).learn(16)


def ends(env, actions):
    return str([env.step(action)[1:] for action in actions])


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", ["Gymnasium", "bandit", "native vector", "SB3 VecEnv"])
def test_copies_in_the_middle_have_the_same_end(words, oracle, kind, copied):
    options = {"task": words(least=4), "oracle": oracle, "learner": "random", "seed": 5}
    batch = list(np.random.default_rng(0).integers(0, 7, (40, 4)))
    env, actions = {
        "Gymnasium": lambda: (solo_env(**options), [A, B, C, A]),
        "bandit": lambda: (response_env(candidates=["aaaa", "bbbb"], **options), [1]),
        "native vector": lambda: (solo_vector(4, **options), batch),
        "SB3 VecEnv": lambda: (sb3_env(4, **options), batch),
    }[kind]()
    env.reset()
    if kind != "bandit":
        env.step(actions.pop(0))
    twin, state = COPIES[copied](env), env.get_state()
    end = ends(env, actions)
    assert ends(twin, actions) == end
    env.set_state(state)
    assert ends(env, actions) == end


def test_nothing_that_an_sb3_environment_hands_out_is_shared(words, oracle):
    env = sb3_env(2, task=words(), oracle=oracle)
    require_apart([env.reset(), *(env.step(np.full(2, 2)) for _ in range(9))])
