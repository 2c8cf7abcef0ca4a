"""The duel for PettingZoo: its conformance suites, and what happens at the end of an episode."""

import copy
import itertools
import os
import pickle
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pettingzoo
import pytest
from pettingzoo.test import (
    api_test,
    max_cycles_test,
    parallel_api_test,
    parallel_seed_test,
    render_test,
    seed_test,
    state_test,
)

import envs
from envs import Completion, DuelArena, Proposal, make_task, preference_duel_v0
from envs.keyed import Key, Stream
from oracles import outcomes

PAD, EOS, A, B, C, P, Q = range(7)
PLAYERS = ["player_0", "player_1"]
VIEWS = [{}, {"obs": "flat"}, {"mask": "none"}, {"obs": "flat", "mask": "none"}, {"mask": "info"}]


def both(first, second):
    return {"player_0": first, "player_1": second}


def finish(env, moves):
    """Plays these moves, then token A for both, to the verdict; returns the last step and all observations."""
    steps = []
    for move in itertools.chain(moves, itertools.repeat((A, A))):
        if not env.agents:
            return steps[-1], [step[0] for step in steps]
        steps.append(env.step(both(*move)))
    raise AssertionError


@pytest.fixture
def make(words, oracle):
    """Builds the environment over the free task, limit 4, and the remembering oracle."""
    return partial(preference_duel_v0.parallel_env, task=words(), oracle=oracle)


@pytest.fixture
def make_aec(words, oracle):
    return partial(preference_duel_v0.env, task=words(), oracle=oracle)


@pytest.mark.filterwarnings("ignore:.*NumPy array:UserWarning", "ignore:.*should be gymnasium:UserWarning")
class TestPublicSuites:
    """PettingZoo's own tests, over the default game and over one with free endings, in every layout."""

    @pytest.fixture(params=["default", "words"])
    def game(self, request, words, oracle):
        return {} if request.param == "default" else {"task": words(), "oracle": oracle}

    @pytest.mark.parametrize("view", VIEWS, ids=str)
    def test_api(self, game, view):
        api_test(preference_duel_v0.env(**game, **view), num_cycles=200)
        api_test(preference_duel_v0.raw_env(**game, **view), num_cycles=200)
        parallel_api_test(preference_duel_v0.parallel_env(**game, **view), num_cycles=200)

    @pytest.mark.parametrize("feedback", ["outcome", "probability"])
    def test_seed(self, game, feedback):
        seed_test(partial(preference_duel_v0.env, **game, feedback=feedback), num_cycles=100)
        parallel_seed_test(partial(preference_duel_v0.parallel_env, **game, feedback=feedback), num_cycles=100)

    def test_state(self, game):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state_test(preference_duel_v0.env(**game), preference_duel_v0.parallel_env(**game))

    def test_render(self, game):
        render_test(partial(preference_duel_v0.env, **game))

    def test_max_cycles(self, words, oracle):
        max_cycles_test(preference_duel_v0)
        options = {"task": words(limit=9), "oracle": oracle, "min_new_tokens": 4}
        builders = {name: partial(getattr(preference_duel_v0, name), **options) for name in ("parallel_env", "env")}
        max_cycles_test(SimpleNamespace(**builders))


def test_the_public_suites_have_nothing_to_warn_about_flat_observations(make, make_aec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api_test(make_aec(obs="flat"))
        parallel_api_test(make(obs="flat"))


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


SCRIPT = """
import numpy as np
from envs import preference_duel_v0
for make in (preference_duel_v0.parallel_env, preference_duel_v0.raw_env):
    env = make(task=None, feedback="outcome")
    env.reset(seed=123)
    for _ in range(50):
        rng, told = np.random.default_rng(7), None
        while env.agents:
            moves = {agent: int(rng.integers(2, 6)) for agent in ("player_0", "player_1")}
            if hasattr(env, "agent_selection"):
                for agent in list(env.agents):
                    told = env.last()[0]["observation"].tolist(), env.last()[1], env.last()[4]
                    env.step(None if env.last()[2] else moves[agent])
            else:
                told = env.step(moves)
                told = told[0]["player_1"]["observation"].tolist(), told[1]["player_1"], told[4]["player_1"]
        print(told)
        env.reset()
"""


def test_two_processes_with_one_seed_play_the_same_episodes():
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    first, second = (run.communicate(timeout=120)[0].splitlines() for run in runs)
    assert first == second
    assert first[:50] == first[50:], "Parallel and AEC differ"
    assert len({line.split("]")[1] for line in first}) > 1, "every verdict is the same"


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
    told, triples = [], []
    for _ in range(count):
        while env.agents:
            step = env.step(both(*rng.integers(1, 5, 2)))
        told.append(step[4]["player_1"]["outcome"])
        triples.append(oracle.calls[-1][0])
        env.reset()
    prompts, first, second = zip(*triples, strict=True)
    won = outcomes(oracle, prompts, first, second, Key(1, np.arange(count), Stream.VERDICT))
    assert told == won.int().tolist()
    probs = np.array([oracle.rule(*triple) for triple in triples])
    for likely in (probs > 0.5, probs <= 0.5):
        spread = np.sqrt((probs[likely] * (1 - probs[likely])).sum())
        assert abs(np.array(told)[likely].sum() - probs[likely].sum()) < 4 * spread


def test_the_oracle_is_asked_once_per_duel_and_never_before_its_end(make, oracle):
    env = make()
    for episode in range(10):
        env.reset()
        for step in range(4):
            assert len(oracle.calls) == episode
            env.step(both(EOS if step > 1 else A, B))
        assert len(oracle.calls) == episode + 1
        assert [len(call) for call in oracle.calls] == [1] * (episode + 1)


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_my_observations_do_not_depend_on_the_opponents_tokens(words, oracle, seat, view):
    mine = [B, C, A, EOS]
    seen = []
    for theirs in ([A, A, A, A], [C, B, A, C], [B, EOS, A, A], [EOS, EOS, EOS, EOS]):
        env = preference_duel_v0.parallel_env(task=words(limit=4), oracle=oracle, **view)
        observations, infos = env.reset(seed=6)
        told = []
        for my, their in zip(mine, theirs, strict=True):
            told.append(repr((observations[PLAYERS[seat]], infos[PLAYERS[seat]])))
            observations, _, _, _, infos = env.step(both(*((my, their) if seat == 0 else (their, my))))
        told.append(repr(observations[PLAYERS[seat]]))
        seen.append(told)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len(set(seen[0])) == 5


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "clone", "state"])
def test_a_copy_in_the_middle_of_a_duel_gives_the_same_verdict(make, way):
    def twin_of(env):
        if way == "state":
            twin = make(feedback=env.duels.feedback)
            twin.set_state(env.get_state())
            return twin
        copiers = {
            "deepcopy": copy.deepcopy,
            "pickle": lambda e: pickle.loads(pickle.dumps(e)),
            "clone": lambda e: e.clone(),
        }
        return copiers[way](env)

    told = []
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
        told.append(mine[4]["player_0"]["outcome"])
    assert set(told) == {0, 1}


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
    told, _ = finish(env, [])
    assert [repr(finish(twin, [])[0]) for twin in twins] == [repr(told)] * 2


def test_a_copys_action_spaces_sample_on_their_own(make):
    env = make()
    env.reset()
    twin = env.clone()
    assert twin.action_space("player_0") is not env.action_space("player_0")
    assert twin.action_space("player_0") is twin.action_space("player_0")


def test_swapped_seats_give_one_minus_p(make):
    env = make(feedback="probability")
    for seed in range(10):
        told = []
        for first, second in (((A, B, EOS), (C, EOS, A)), ((C, EOS, A), (A, B, EOS))):
            env.reset(seed=seed)
            told.append(finish(env, zip(first, second, strict=True))[0])
        (_, rewards, _, _, infos), (_, swapped, _, _, swapped_infos) = told
        assert infos["player_0"]["preference"] + swapped_infos["player_0"]["preference"] == pytest.approx(1, abs=1e-15)
        assert rewards["player_0"] == pytest.approx(swapped["player_1"], abs=1e-15)
        assert infos["player_0"]["lengths"] == swapped_infos["player_0"]["lengths"][::-1]


def arrays(observations, infos):
    found = []
    for told in (*observations.values(), *infos.values()):
        found += [told] if isinstance(told, np.ndarray) else [v for v in told.values() if isinstance(v, np.ndarray)]
    return found


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_nothing_that_is_handed_out_shares_memory(make, view):
    env = make(**view)
    everything = arrays(*env.reset(seed=0))
    while env.agents:
        observations, _, _, _, infos = env.step(both(A, B))
        everything += arrays(observations, infos)
        everything += [env.state(), *env.action_masks().values(), *env.get_state().values()]
    inside = [getattr(env.duels, name) for name in env.get_state()] + [env.duels.rules.masks]
    for one, other in itertools.combinations(everything, 2):
        assert not np.shares_memory(one, other)
    for one, own in itertools.product(everything, inside):
        assert not np.shares_memory(one, own)
    assert infos["player_0"] is not infos["player_1"]


def test_a_new_max_cycles_on_a_live_environment_does_no_harm(make):
    env = make()
    env.reset(seed=0)
    env.step(both(A, B))
    env.max_cycles = 1000
    told, observations = finish(env, [])
    assert len(observations) == 3
    assert told[2] == both(True, True)
    env.reset()
    assert len(finish(env, [])[1]) == 4


def test_observations_fit_their_spaces_and_show_prompt_and_own_response(make):
    env = make()
    observations, _ = env.reset(seed=2)
    prompt = {"p": [PAD, PAD, P], "pq": [PAD, P, Q], "qqp": [Q, Q, P]}[env.duels.task.prompts[env.duels.prompts[0]]]
    expected = [[PAD] * 4, [A] + [PAD] * 3, [A, EOS, PAD, PAD], [A, EOS, PAD, PAD], [A, EOS, PAD, PAD]]
    masks = [[0, 1, 1, 1, 1, 0, 0]] * 2 + [[0, 1, 0, 0, 0, 0, 0]] * 3
    for response, mask, move in zip(expected, masks, (A, EOS, C, A, None), strict=True):
        for agent in PLAYERS:
            assert env.observation_space(agent).contains(observations[agent])
            assert env.observation_space(agent) is env.observation_space(agent)
        assert observations["player_0"]["observation"].tolist() == prompt + response
        assert observations["player_0"]["action_mask"].tolist() == mask
        assert env.action_masks()["player_0"].tolist() == mask
        if move is not None:
            observations, *_ = env.step(both(move, B))
    assert env.state().tolist() == [*prompt, A, EOS, PAD, PAD, B, B, B, B]
    assert env.state_space.contains(env.state())


def test_the_mask_is_where_it_was_asked_for(make):
    flat = make(obs="flat")
    observations, infos = flat.reset()
    assert observations["player_0"].shape == (7,)
    assert infos["player_0"]["action_mask"].dtype == np.int8
    (_, _, _, _, infos), _ = finish(flat, [])
    assert infos["player_1"]["action_mask"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert "outcome" in infos["player_1"]
    bare = make(mask="none")
    observations, infos = bare.reset()
    assert set(observations["player_0"]) == {"observation"}
    assert infos == both({}, {})
    assert bare.action_masks()["player_1"].tolist() == [0, 1, 1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="needs obs='dict'"):
        make(obs="flat", mask="observation")


@pytest.mark.parametrize(("size", "layout"), [(4096, {"observation", "action_mask"}), (4097, {"observation"})])
def test_large_vocabularies_have_no_mask_unless_asked(words, oracle, size, layout):
    task = words()
    object.__setattr__(task, "response_tokens", np.arange(size) == A)
    task.tokenizer.vocab_size = size
    make = partial(preference_duel_v0.parallel_env, task=task, oracle=oracle)
    assert set(make().reset()[0]["player_0"]) == layout
    assert set(make(mask="observation").reset()[0]["player_0"]) == {"observation", "action_mask"}


def test_rendering_shows_both_texts_and_the_verdict_in_words(make, capsys):
    env = make(render_mode="ansi", feedback="probability")
    env.reset(seed=2)
    prompt = env.duels.task.prompts[env.duels.prompts[0]]
    env.step(both(A, B))
    env.step(both(C, EOS))
    assert env.render() == f"prompt    {prompt}\nplayer_0  ac…\nplayer_1  b\nverdict   not yet: the duel goes on"
    (_, _, _, _, infos), _ = finish(env, [])
    winner = "player_0" if infos["player_0"]["outcome"] else "player_1"
    lines = env.render().splitlines()
    assert lines[1:3] == ["player_0  acaa (limit)", "player_1  b"]
    assert lines[3].startswith(f"verdict   {winner} is preferred, P(player_0 beats player_1) = 0.")
    env = make(render_mode="human")
    env.reset(seed=2)
    finish(env, [(EOS, EOS)])
    assert env.render() is None
    printed = capsys.readouterr().out
    assert printed.count("prompt  ") == 3
    assert "is preferred" in printed
    assert "P(" not in printed, "outcome feedback must not reveal P"


def test_both_registries_know_the_duel():
    aec = pettingzoo.make("aec", "duel/preference_duel-v0")
    parallel = pettingzoo.make("parallel", "duel/preference_duel-v0", feedback="probability")
    assert isinstance(aec, pettingzoo.AECEnv)
    assert isinstance(parallel, pettingzoo.ParallelEnv)
    assert (str(aec), str(parallel)) == ("preference_duel_v0",) * 2
    assert pettingzoo.spec("aec", "duel/preference_duel-v0").max_cycles is None
    assert envs.preference_duel_v0 is preference_duel_v0


def test_without_arguments_the_game_is_small_and_its_length_is_max_cycles():
    env = preference_duel_v0.parallel_env()
    assert env.action_space("player_0").n < 20
    assert env.max_cycles == 3
    longer = preference_duel_v0.parallel_env(max_cycles=5)
    longer.reset()
    assert len(finish(longer, [])[1]) == 5
    assert len(longer.duels.completion(0, 0).text) == 5


def test_a_finite_tasks_limits_cannot_be_changed(oracle):
    task = make_task("symbols", length=2)
    assert preference_duel_v0.parallel_env(task=task, max_cycles=2, oracle=oracle).max_cycles == 2
    with pytest.raises(ValueError, match="limits of 2 to 4 would make others"):
        preference_duel_v0.parallel_env(task=task, oracle=oracle, max_cycles=4)


def test_bad_input_is_named(words, oracle):
    make = partial(preference_duel_v0.parallel_env, task=words(), oracle=oracle)
    for options, message in (
        ({"obs": "text"}, "obs must be one of"),
        ({"mask": "yes"}, "mask must be None or one of"),
        ({"render_mode": "rgb_array"}, "render_mode must be None or one of"),
        ({"feedback": "vote"}, "feedback must be one of"),
        ({"seed": -1}, "a seed must lie in"),
        ({"task": "symbol"}, "did you mean 'symbols'"),
        ({"oracle": "cyclick"}, "did you mean 'cyclic'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    env = make()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(both(A, A))
    env.reset()
    with pytest.raises(ValueError, match="none of 'player_1'"):
        env.step({"player_0": A})
    for token in (-1, 7):
        with pytest.raises(ValueError, match=r"ids in \[0, 7\)"):
            env.step(both(A, token))
    with pytest.raises(TypeError):
        env.step(both(A, 2.5))
    env.step(both(np.int32(A), np.array(B)))
    assert env.duels.completion(0, 1) == Completion("b", (B,))


def test_the_code_of_its_document_runs(capsys):
    text = (Path(__file__).parents[1] / "docs" / "environment.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("prompt ")
    assert lines[3].endswith("is preferred")
    assert len(set(lines[4:7])) == 1
    assert lines[7:] == ["False"]
