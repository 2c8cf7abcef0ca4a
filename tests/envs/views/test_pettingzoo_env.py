"""The duel for PettingZoo: its conformance suites, layouts, rendering and input."""

import itertools
import re
import warnings
from functools import partial
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
from envs import Completion, make_task, preference_duel_v0
from tests.envs.duels import EOS, PAD, PLAYERS, A, B, C, P, Q, arrays_in, both, finish, require_apart
from tests.paths import DOCS

VIEWS = [{}, {"obs": "flat"}, {"mask": "none"}, {"obs": "flat", "mask": "none"}, {"mask": "info"}]


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


def test_a_copys_action_spaces_sample_on_their_own(make):
    env = make()
    env.reset()
    twin = env.clone()
    assert twin.action_space("player_0") is not env.action_space("player_0")
    assert twin.action_space("player_0") is twin.action_space("player_0")


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_my_observations_do_not_depend_on_the_opponents_tokens(words, oracle, seat, view):
    mine = [B, C, A, EOS]
    seen = []
    for theirs in ([A, A, A, A], [C, B, A, C], [B, EOS, A, A], [EOS, EOS, EOS, EOS]):
        env = preference_duel_v0.parallel_env(task=words(limit=4), oracle=oracle, **view)
        observations, infos = env.reset(seed=6)
        views = []
        for my, their in zip(mine, theirs, strict=True):
            views.append(repr((observations[PLAYERS[seat]], infos[PLAYERS[seat]])))
            observations, _, _, _, infos = env.step(both(*((my, their) if seat == 0 else (their, my))))
        views.append(repr(observations[PLAYERS[seat]]))
        seen.append(views)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len(set(seen[0])) == 5


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_nothing_that_is_handed_out_shares_memory(make, view):
    env = make(**view)
    everything = [env.reset(seed=0)]
    while env.agents:
        observations, _, _, _, infos = env.step(both(A, B))
        everything += [observations, infos, env.state(), env.action_masks(), env.get_state()]
    inside = [getattr(env.duels, name) for name in env.get_state()] + [env.duels.rules.masks]
    require_apart(everything)
    for one, own in itertools.product(arrays_in(everything), inside):
        assert not np.shares_memory(one, own)
    assert infos["player_0"] is not infos["player_1"]


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
    with pytest.raises(ValueError, match="limits of 2 to 4 would allow others"):
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
    text = (DOCS / "environment.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("prompt ")
    assert lines[3].endswith("is preferred")
    assert len(set(lines[4:7])) == 1
    assert re.fullmatch(r"[01] [01] -?1\.0", lines[7])
    assert lines[8:] == ["True True", str((256, names["observations"]["observation"].shape[1])), "False"]
