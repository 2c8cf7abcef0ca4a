"""The duel for one player: the same game as the one of two, its opponents, and the public suites."""

import gymnasium
import numpy as np
import pytest
import torch

import envs
from agents.policies.tabular import TabularPolicy
from envs import make_task, preference_duel_v0
from envs.token_duel.duels import PLAYERS
from envs.token_duel.opponents import Fixed, PolicyOpponent, Pool, Uniform
from envs.views.gym_env import solo_env
from preference_duel.keyed_random import Rows, Stream
from tests.envs.duels import SYMBOLS


def rows(count):
    return Rows(seeds=np.zeros(count, np.uint64), episode=np.arange(count), stream=Stream.OPPONENT)


def play(env, rng, seed=None):
    """Plays one episode with random legal tokens; returns the tokens, the info of reset, and the last step."""
    observation, first = env.reset(seed=seed)
    played, over = [], False
    while not over:
        played.append(int(rng.choice(np.flatnonzero(env.action_masks()))))
        observation, reward, over, truncated, info = env.step(played[-1])
        assert truncated is False
    return played, first, (observation, reward, info)


@pytest.fixture
def words_env(words, oracle):
    """A duel of free length, of which EOS may come at any step."""

    def build(**options):
        return solo_env(task=words(), oracle=oracle, **options)

    return build


@pytest.mark.parametrize("learner", ["player_0", "player_1", "random"])
def test_prompt_and_verdict_are_those_of_the_game_of_two(words_env, words, oracle, learner):
    env = words_env(learner=learner)
    pair = preference_duel_v0.parallel_env(task=words(), oracle=oracle)
    rng, seats = np.random.default_rng(0), set()
    for episode in range(60):
        mine, first_info, (observation, reward, info) = play(env, rng, seed=7 if episode == 0 else None)
        seat, theirs = first_info["seat"], list(env.solo.duels.completion(0, 1 - first_info["seat"]).tokens)
        seats.add(seat)
        observations, _ = pair.reset(seed=7 if episode == 0 else None)
        infos, rewards = {}, {}
        for step in range(max(len(mine), len(theirs))):
            both = [row[step] if step < len(row) else pair.duels.rules.eos for row in (mine, theirs)]
            actions = dict(zip(PLAYERS, both if seat == 0 else both[::-1], strict=True))
            observations, rewards, _, _, infos = pair.step(actions)
        me = PLAYERS[seat]
        assert reward == rewards[me] != 0
        assert {**infos[me], "seat": seat} == info
        assert np.array_equal(observation["observation"], observations[me]["observation"])
    assert seats == ({0, 1} if learner == "random" else {PLAYERS.index(learner)})


def test_an_opponents_tokens_are_never_seen(words_env):
    env = words_env(opponent=["a"])
    other = words_env(opponent=["cbac"])
    for one in (env, other):
        one.reset(seed=3)
    for token in env.solo.duels.task.tokenizer.encode("ba"):
        left, right = env.step(token), other.step(token)
        assert np.array_equal(left[0]["observation"], right[0]["observation"])


def test_every_kind_of_opponent_plays(words_env, words):
    rng, rules = np.random.default_rng(0), words_env().solo.duels.rules
    encode = words().tokenizer.encode
    fixed = Fixed([[*encode("ab"), rules.eos], encode("cccc")])
    for opponent, texts in ((["ab", "cccc"], {"ab", "cccc"}), (Pool([fixed, Uniform(rules)], [1, 0]), {"ab", "cccc"})):
        env, played = words_env(opponent=opponent), set()
        for _ in range(30):
            play(env, rng)
            played.add(env.solo.duels.completion(0, 1).text)
        assert played == texts


def test_uniform_opponents_play_every_legal_token_alike(words_env):
    rules = words_env().solo.duels.rules
    firsts = [tokens[0] for tokens in Uniform(rules).respond(["p"] * 4000, rows(4000))]
    counts = np.bincount(firsts, minlength=rules.vocab_size)
    legal = np.flatnonzero(rules.masks[rules.by_step[0]])
    assert counts[legal].sum() == 4000
    assert np.abs(counts[legal] / 4000 - 1 / len(legal)).max() < 0.03


@pytest.mark.parametrize("exact", [True, False])
def test_a_policy_plays_as_often_as_its_probabilities_say(exact):
    task = make_task("symbols", alphabet=3, length=1, prompts=1)
    probs = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    opponent = PolicyOpponent(TabularPolicy(task, probs, exact=exact))
    tokens = [tuple(row) for row in opponent.respond(task.prompts * 2000, rows(2000))]
    shares = [sum(row == response.tokens for row in tokens) / 2000 for response in task.responses]
    assert shares == pytest.approx(probs.tolist(), abs=0.04)


def test_another_opponent_plays_from_the_next_reset_on(words_env):
    env, rng = words_env(opponent=["a"]), np.random.default_rng(0)
    env.reset(seed=0)
    env.set_opponent(["bb"])
    while not env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))[2]:
        pass
    assert env.solo.duels.completion(0, 1).text == "a"
    play(env, rng)
    assert env.solo.duels.completion(0, 1).text == "bb"


def test_gymnasiums_own_vectors_run_it():
    vector = gymnasium.make_vec(envs.registration.DUEL, num_envs=3, vectorization_mode="sync", **SYMBOLS)
    observations, _ = vector.reset(seed=4)
    alone = [solo_env(**SYMBOLS).reset(seed=4 + i)[0]["observation"] for i in range(3)]
    assert np.array_equal(observations["observation"], np.stack(alone))
    for _ in range(8):
        _, rewards, over, truncated, _ = vector.step(np.full(3, 2))
        assert not truncated.any()
        assert ((rewards != 0) == over).all()


def test_it_shows_both_responses_and_the_verdict():
    env = gymnasium.make(envs.registration.DUEL, render_mode="ansi", **SYMBOLS)
    play(env.unwrapped, np.random.default_rng(0), seed=0)
    assert "is preferred" in env.unwrapped.render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponent": "nobody"}, "an opponent is 'uniform'"),
        ({"opponent": []}, "an opponent is 'uniform'"),
        ({"opponent": ["abcabc"]}, "longer than the limit of 4"),
        ({"opponent": ["p"]}, "may not stand at place 1"),
        ({"learner": "player_2"}, "learner must be one of"),
    ],
)
def test_what_is_no_opponent_or_seat_is_told(words_env, options, message):
    with pytest.raises(ValueError, match=message):
        words_env(**options)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ([99], "token 99 may not stand at place 1"),
        ([], "does not end"),
        (["a"], "integer"),
        ([2], "does not end"),
        ([2, 2, 2, 2, 2], "goes on after its end"),
    ],
)
def test_what_an_opponent_may_not_say_is_told(words_env, response, message):
    class Wrong:
        def respond(self, prompts, key):
            return [response]

    with pytest.raises((ValueError, TypeError), match=message):
        words_env(opponent=Wrong()).reset(seed=0)


def test_wrong_pools_options_and_actions_are_told(words_env):
    env = words_env()
    with pytest.raises(ValueError, match="one weight for each"):
        Pool([Uniform(env.solo.duels.rules)], [0.5, 0.5])
    with pytest.raises(ValueError, match="not all 0"):
        Pool([Uniform(env.solo.duels.rules)], [0.0])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)
    with pytest.raises(ValueError, match="knows no options"):
        env.reset(options={"opponent": 1})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="ids in"):
        env.step(99)
    with pytest.raises(TypeError):
        env.step(0.5)
    play(env, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)
