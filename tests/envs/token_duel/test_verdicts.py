"""The end of an episode: rewards, verdicts, their random numbers, and copies in the middle."""

import copy
import itertools
import pickle

import numpy as np
import pytest

from envs import DuelArena, Proposal, preference_duel_v0
from oracles import outcomes
from preference_duel.keyed_random import Key, Stream
from tests.envs.duels import COPIES, EOS, PLAYERS, A, B, C, both, finish

ENDS = list(itertools.product(range(1, 6), repeat=2))  # step of a player's EOS; 5: the limit


@pytest.mark.parametrize("feedback", ["outcome", "probability"])
@pytest.mark.parametrize("ends", ENDS)
def test_rewards_sum_to_zero_and_come_at_the_end_whoever_ends_first(make, feedback, ends):
    env = make(feedback=feedback)
    env.reset(seed=sum(ends))
    for step in range(1, 5):
        moves = [EOS if step >= end else (A, B)[seat] for seat, end in enumerate(ends)]
        _, rewards, terminations, truncations, infos = env.step(both(*moves))
        over = step == min(4, max(ends))
        assert terminations == both(over, over)
        assert truncations == both(False, False)
        assert all(type(flag) is bool for flag in (*terminations.values(), *truncations.values()))
        assert all(type(reward) is float for reward in rewards.values())
        assert rewards["player_0"] + rewards["player_1"] == 0.0
        if over:
            break
        assert rewards == both(0.0, 0.0)
        assert infos == both({}, {})
        assert env.agents == PLAYERS
    assert env.agents == []
    same_text = env.duels.completion(0, 0).text == env.duels.completion(0, 1).text
    assert (rewards["player_0"] != 0.0) == (feedback == "outcome" or not same_text)
    assert infos["player_0"] == infos["player_1"]
    assert infos["player_0"]["hit_limit"] == tuple(end == 5 for end in ends)
    assert infos["player_0"]["lengths"] == tuple(min(end, 4) for end in ends)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(both(A, A))


def test_outcome_feedback_rewards_the_winner_and_does_not_reveal_p(make, oracle):
    env = make(feedback="outcome")
    seen = set()
    for seed in range(20):
        env.reset(seed=seed)
        (_, rewards, _, _, infos), _ = finish(env, [(A, B)])
        assert set(infos["player_0"]) == {"outcome", "lengths", "hit_limit"}
        assert rewards["player_0"] == (1.0 if infos["player_0"]["outcome"] == 1 else -1.0)
        assert set(env.get_state()["revealed"].tolist()) <= {0.0, 1.0}
        seen.add(rewards["player_0"])
    assert seen == {1.0, -1.0}


def test_probability_feedback_rewards_by_p(make, oracle):
    env = make(feedback="probability")
    env.reset(seed=4)
    (_, rewards, _, _, infos), _ = finish(env, [(A, B), (B, EOS)])
    [(prompt, first, second)] = oracle.calls[0]
    prob = oracle.rule(prompt, first, second)
    assert (first, second) == ("abaa", "b")
    assert infos["player_0"]["preference"] == infos["player_1"]["preference"] == prob
    assert rewards == both(2 * prob - 1, -(2 * prob - 1))


@pytest.mark.parametrize("feedback", ["outcome", "probability"])
@pytest.mark.parametrize("batch", [1, 5])
def test_stepping_token_by_token_equals_the_arena(words, oracle, feedback, batch):
    task = words(limit=5, least=1)
    env = preference_duel_v0.parallel_env(task=task, oracle=oracle, feedback=feedback)
    arena = DuelArena(task, oracle, batch, feedback=feedback, seed=77)
    rng = np.random.default_rng(0)
    env.reset(seed=77)
    for _ in range(40 // batch):
        played = []
        for _ in range(batch):
            while env.agents:
                tokens = env.duels.random_tokens(rng.random((1, 2)))[0]
                step = env.step(both(*tokens))
            prompt = task.prompts[env.duels.prompts[0]]
            played.append((prompt, env.duels.completion(0, 0), env.duels.completion(0, 1), step[1]["player_0"]))
            env.reset()
        prompts, left, right, gains = zip(*played, strict=True)
        assert arena.reset() == list(prompts)
        duel = arena.play(Proposal([[one] for one in left], [[one] for one in right]))
        assert (2 * duel.prob[:, 0, 0] - 1).tolist() == list(gains)


def test_aec_and_parallel_give_the_same_episodes(make, make_aec):
    env, aec = make(), make_aec()
    rng = np.random.default_rng(5)
    for seed in (3, None, None, 8):
        observations, infos = env.reset(seed=seed)
        aec.reset(seed=seed)
        rewards = both(0, 0)
        terminations = both(False, False)
        while aec.agents:
            moves = dict(zip(PLAYERS, rng.integers(0, 7, 2), strict=True))
            for agent in list(aec.agents):
                assert aec.agent_selection == agent
                seen, reward, terminated, truncated, info = aec.last()
                assert seen["observation"].tolist() == observations[agent]["observation"].tolist()
                assert seen["action_mask"].tolist() == observations[agent]["action_mask"].tolist()
                assert (reward, terminated, truncated) == (rewards[agent], terminations[agent], False)
                assert info == infos[agent]
                aec.step(None if terminated else moves[agent])
            if env.agents:
                observations, rewards, terminations, _, infos = env.step(moves)


def test_outcomes_of_sequential_episodes_are_the_oracles_keyed_outcomes(words, oracle):
    """Two thousand token-level duels: each verdict is the one that `oracles.outcomes` draws, and they follow P."""
    count = 2000
    env = preference_duel_v0.parallel_env(task=words(limit=2), oracle=oracle)
    rng = np.random.default_rng(2)
    env.reset(seed=1)
    verdicts, triples = [], []
    for _ in range(count):
        while env.agents:
            step = env.step(both(*rng.integers(1, 5, 2)))
        verdicts.append(step[4]["player_1"]["outcome"])
        triples.append(oracle.calls[-1][0])
        env.reset()
    prompts, first, second = zip(*triples, strict=True)
    won = outcomes(oracle, prompts, first, second, Key(1, np.arange(count), Stream.VERDICT))
    assert verdicts == won.int().tolist()
    probs = np.array([oracle.rule(*triple) for triple in triples])
    for likely in (probs > 0.5, probs <= 0.5):
        spread = np.sqrt((probs[likely] * (1 - probs[likely])).sum())
        assert abs(np.array(verdicts)[likely].sum() - probs[likely].sum()) < 4 * spread


def test_the_oracle_is_asked_once_per_duel_and_never_before_its_end(make, oracle):
    env = make()
    for episode in range(10):
        env.reset()
        for step in range(4):
            assert len(oracle.calls) == episode
            env.step(both(EOS if step > 1 else A, B))
        assert len(oracle.calls) == episode + 1
        assert [len(call) for call in oracle.calls] == [1] * (episode + 1)


@pytest.mark.parametrize("way", [*COPIES, "state"])
def test_a_copy_in_the_middle_of_a_duel_gives_the_same_verdict(make, way):
    def twin_of(env):
        if way == "state":
            twin = make(feedback=env.duels.feedback)
            twin.set_state(env.get_state())
            return twin
        return COPIES[way](env)

    verdicts = []
    for seed in range(12):
        env = make(feedback="probability")
        env.reset(seed=seed)
        env.step(both(A, EOS))
        twin = twin_of(env)
        env.step(both(C, C))
        assert twin.duels.completion(0, 0).text == "a"
        assert twin.agents == PLAYERS
        mine, _ = finish(env, [(B, A)])
        theirs, _ = finish(twin, [(C, C), (B, A)])
        assert repr(mine) == repr(theirs)
        assert twin.agents == []
        env.reset()
        twin.reset()
        assert env.get_state()["prompts"] == twin.get_state()["prompts"]
        assert finish(env, [])[0][4] == finish(twin, [])[0][4]
        verdicts.append(mine[4]["player_0"]["outcome"])
    assert set(verdicts) == {0, 1}


def test_a_deepcopy_of_the_aec_environment_keeps_half_a_turn(make_aec):
    env = make_aec()
    env.reset(seed=3)
    for token in (A, B, C):
        env.step(token)
    twin = copy.deepcopy(env)
    for one in (env, twin):
        for _ in range(5):
            one.step(B)
    assert env.unwrapped.duels.completion(0, 0).text == twin.unwrapped.duels.completion(0, 0).text == "acbb"
    assert env.infos == twin.infos
    assert "outcome" in env.infos["player_0"]


def test_the_default_environment_can_be_pickled_and_deepcopied():
    env = preference_duel_v0.parallel_env()
    env.reset(seed=0)
    env.step(both(2, 3))
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    last, _ = finish(env, [])
    assert [repr(finish(twin, [])[0]) for twin in twins] == [repr(last)] * 2


def test_swapped_seats_give_one_minus_p(make):
    env = make(feedback="probability")
    for seed in range(10):
        ends = []
        for first, second in (((A, B, EOS), (C, EOS, A)), ((C, EOS, A), (A, B, EOS))):
            env.reset(seed=seed)
            ends.append(finish(env, zip(first, second, strict=True))[0])
        (_, rewards, _, _, infos), (_, swapped, _, _, swapped_infos) = ends
        assert infos["player_0"]["preference"] + swapped_infos["player_0"]["preference"] == pytest.approx(1, abs=1e-15)
        assert rewards["player_0"] == pytest.approx(swapped["player_1"], abs=1e-15)
        assert infos["player_0"]["lengths"] == swapped_infos["player_0"]["lengths"][::-1]


def test_a_new_max_cycles_on_a_live_environment_does_no_harm(make):
    env = make()
    env.reset(seed=0)
    env.step(both(A, B))
    env.max_cycles = 1000
    last, observations = finish(env, [])
    assert len(observations) == 3
    assert last[2] == both(True, True)
    env.reset()
    assert len(finish(env, [])[1]) == 4
