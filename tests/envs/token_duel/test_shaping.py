"""Rewards by token: every view pays them at the same step, and shaping moves no total and no best response."""

import itertools
import math

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
from envs import TokenDuels, make_task, preference_duel_v0
from envs.token_duel.duels_torch import TorchDuels
from envs.token_duel.shaping import Shaped, soft_potential
from envs.views.bandit_env import response_env
from envs.views.gym_env import solo_env
from envs.views.sb3_vec_env import sb3_env
from oracles import check_oracle
from oracles import make as make_oracle
from tests.envs.duels import EOS, PLAYERS, A, B, C

LIMIT = 4
PLANS = [([A, EOS], [B, C, EOS]), ([C, A, B, A], [EOS]), ([EOS], [EOS]), ([A, A, A, A], [B, C, A, C])]


def phi(prompt, tokens):
    """A potential of no meaning: 0 of what has ended."""
    whole = len(tokens) == LIMIT or (tokens and tokens[-1] == EOS)
    return 0.0 if whole else 0.3 + 0.1 * sum((t + 1) * token for t, token in enumerate(tokens))


def paid(tokens, t):
    return phi("", tuple(tokens[: t + 1])) - phi("", tuple(tokens[:t])) if t < len(tokens) else 0.0


def schedule(plan, chance):
    """What player_0 is paid at each step, by hand."""
    steps = max(map(len, plan))
    rises = [paid(plan[0], t) - paid(plan[1], t) for t in range(steps)]
    return [*rises[:-1], rises[-1] + 2 * chance - 1]


def moves(tokens):
    return itertools.chain(tokens, itertools.repeat(EOS))


class Script:
    def __init__(self, plans):
        self.plans = plans

    def respond(self, prompts, key):
        return [self.plans[episode % len(self.plans)] for episode in key.episode.tolist()]


def parallel(options):
    env = preference_duel_v0.parallel_env(**options)
    for plan in PLANS:
        env.reset()
        rewards, tokens = [], zip(*map(moves, plan), strict=False)
        while env.agents:
            _, step, *_ = env.step(dict(zip(PLAYERS, next(tokens), strict=True)))
            assert step["player_0"] == -step["player_1"]
            rewards.append(step["player_0"])
        yield rewards


def aec(options):
    env = preference_duel_v0.env(**options)
    for plan in PLANS:
        env.reset()
        rewards, tokens = [], zip(*map(moves, plan), strict=False)
        while not all(env.terminations.values()):
            for token in next(tokens):
                env.step(token)
            rewards.append(env.rewards["player_0"])
        yield rewards


def single(learner):
    def play(options):
        mine, theirs = list(zip(*PLANS, strict=True))[:: 1 if learner == "player_0" else -1]
        env, sign = solo_env(learner=learner, opponent=Script(theirs), **options), 1 if learner == "player_0" else -1
        for response in mine:
            env.reset()
            rewards, over, tokens = [], False, moves(response)
            while not over:
                _, reward, over, *_ = env.step(next(tokens))
                rewards.append(sign * reward)
            yield rewards

    return play


def vector(mode):
    def play(options):
        mine, theirs = zip(*PLANS, strict=True)
        env = gymnasium.make_vec(
            envs.registration.DUEL, num_envs=2, vectorization_mode=mode, opponent=Script(theirs), **options
        )
        env.reset(seed=[0, 0])
        for response in mine:
            rewards, over, tokens = [], [False], moves(response)
            while not over[0]:
                _, step, over, *_ = env.step(np.full(2, next(tokens)))
                rewards.append(step[1])
            assert env.step(np.full(2, EOS))[1].tolist() == [0, 0]  # the reset is paid nothing
            yield rewards

    return play


def sb3(build):
    def play(options):
        mine, theirs = zip(*PLANS, strict=True)
        env = build(opponent=Script(theirs), **options)
        env.reset()
        for response in mine:
            rewards, over, tokens = [], [False], moves(response)
            while not over[0]:
                _, step, over, _ = env.step(np.full(2, next(tokens)))
                rewards.append(step[1])
            yield rewards

    return play


VIEWS = {
    "parallel": parallel,
    "aec": aec,
    "gymnasium": single("player_0"),
    "the other seat": single("player_1"),
    "sync vector": vector("sync"),
    "native vector": vector(None),
    "DummyVecEnv": sb3(lambda **options: DummyVecEnv([lambda: solo_env(**options)] * 2)),
    "SB3": sb3(lambda **options: sb3_env(2, **options)),
}


class Likes:
    """P(first beats second) by the number of letters a."""

    antisymmetric = True

    def prob(self, prompts, first, second):
        gaps = [one.count("a") - other.count("a") for one, other in zip(first, second, strict=True)]
        return torch.tensor(gaps, dtype=torch.float64).sigmoid()


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_pays_each_token_at_its_step_and_the_verdict_in_all(words, name):
    options = {"task": words(), "oracle": Shaped(Likes(), phi), "feedback": "probability"}
    for plan, rewards in zip(PLANS, VIEWS[name](options), strict=True):
        gap = plan[0].count(A) - plan[1].count(A)
        chance = 1 / (1 + math.exp(-gap))
        assert rewards == pytest.approx(schedule(plan, chance), abs=1e-6)
        assert sum(rewards) == pytest.approx(2 * chance - 1, abs=1e-6)


def test_a_whole_response_at_once_is_paid_the_sum(words):
    env = response_env(
        task=words(), oracle=Shaped(Likes(), phi), feedback="probability", candidates=["aa"], opponent=["b"]
    )
    env.reset()
    assert env.step(0)[1] == pytest.approx(math.tanh(1), abs=1e-12)


def test_tokens_may_be_paid_besides_the_verdict(words):
    class Costly(Likes):
        def token_rewards(self, prompts, beginnings):
            assert [len(y) for y in beginnings] == [len(beginnings[0])] * len(beginnings)
            return torch.full((len(beginnings),), -0.25)

    duels = TokenDuels(words(), Costly(), 2, feedback="probability")
    duels.reset()
    total, rows = np.zeros(2), np.arange(2)
    for first, second in zip(moves([A, B, EOS]), [EOS, A, A], strict=False):
        duels.step(np.array([[first, second]] * 2))
        total += duels.rewards(rows)[:, 0]
    assert total == pytest.approx([math.tanh(0.5) - 0.25 * 3 + 0.25] * 2)


def test_a_copy_in_the_middle_is_paid_the_same(words):
    env = preference_duel_v0.parallel_env(task=words(), oracle=Shaped(Likes(), phi))
    env.reset(seed=3)
    env.step(dict.fromkeys(PLAYERS, A))
    twin, state = env.clone(), env.get_state()
    rest = [env.step({"player_0": B, "player_1": token})[1] for token in (EOS, A, C)]
    assert [twin.step({"player_0": B, "player_1": token})[1] for token in (EOS, A, C)] == rest
    env.set_state(state)
    assert env.step({"player_0": B, "player_1": EOS})[1] == rest[0]


def test_shaping_by_soft_values_leaves_the_best_response_and_shows_it_at_every_token():
    task = make_task("symbols", alphabet=3, length=3, prompts=1)
    inner = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts, lam=0.5)
    other = task.response_texts[5]
    gain = 2 * inner.prob([task.prompts[0]] * 27, task.response_texts, [other] * 27) - 1
    uniform = torch.full((27,), 1 / 27)
    guided = Shaped(inner, soft_potential(task, uniform, gain, 0.01))
    misled = Shaped(inner, soft_potential(task, uniform, -gain, 0.5))
    check_oracle(guided, task.prompts, [list(task.response_texts)] * len(task.prompts))
    options = {"task": task, "opponent": [other], "feedback": "probability"}
    for oracle in (inner, guided, misled):
        env, returns = solo_env(oracle=oracle, **options), []
        for response in task.responses:
            env.reset(seed=0)
            rewards = [env.step(token)[1] for token in response.ids]
            assert (rewards[:2] == [0, 0]) == (oracle is inner or response.text[:2] == other[:2])
            returns.append(sum(rewards))
        assert returns == pytest.approx(gain.tolist(), abs=1e-12)

    env = solo_env(oracle=guided, **options)
    env.reset(seed=0)
    over, played = False, []
    while not over:  # the token that is paid most at once
        legal = np.flatnonzero(env.action_masks())
        played.append(max(legal.tolist(), key=lambda token: env.clone().step(token)[1]))
        *_, over, _, _ = env.step(played[-1])
    assert tuple(played) == task.responses[int(gain.argmax())].ids


def test_the_rise_of_soft_values_by_hand():
    """V() = 1.399444, V(1) = 1.677720; of the answers 00, 01, 10, 11 with rewards 0, 1, .5, 2 at tau .5."""
    task = make_task("symbols", alphabet=2, length=2)
    order = [task.response_texts.index(text) for text in sorted(task.response_texts)]
    reward = torch.zeros(4, dtype=torch.float64)
    reward[order] = torch.tensor([0, 1, 0.5, 2], dtype=torch.float64)
    shaped = Shaped(Likes(), soft_potential(task, torch.full((4,), 0.25), reward, 0.5))
    best = task.responses[order[3]].ids
    rises = shaped.token_rewards([task.prompts[0]] * 2, [best[:1], best]).tolist()
    assert rises == pytest.approx([1.677720 - 1.399444, -1.677720], abs=1e-6)


def test_payments_that_can_not_be_made_are_refused(words):
    class Wrong(Likes):
        def token_rewards(self, prompts, beginnings):
            return torch.full((len(beginnings) + 1,), math.nan)

    env = preference_duel_v0.parallel_env(task=words(), oracle=Wrong())
    env.reset()
    with pytest.raises(ValueError, match=r"Wrong.token_rewards must return 1 finite rewards, one for each beginning"):
        env.step(dict.fromkeys(PLAYERS, A))
    with pytest.raises(ValueError, match="TorchDuels pays verdicts alone, and Shaped tokens too; take TokenDuels"):
        TorchDuels(words(), Shaped(Likes(), phi))
    with pytest.raises(ValueError, match="lists no responses, whose soft values would be known"):
        soft_potential(words(), torch.ones(1), torch.ones(1), 1.0)
