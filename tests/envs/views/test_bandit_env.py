"""The duel as a bandit: its spaces, its end, the public suites."""

import numpy as np
import pytest

import envs
from envs.views.bandit_env import response_env
from tests.envs.duels import SYMBOLS


@pytest.fixture
def bandit(words, oracle):
    def build(**options):
        return response_env(task=words(), oracle=oracle, **options)

    return build


def test_a_candidate_and_its_tokens_are_the_same_response(bandit):
    texts = ["ab", "cccc", ""]
    listed, free = bandit(candidates=texts), bandit(actions="tokens")
    assert listed.action_space.n == 3
    assert free.action_space.nvec.tolist() == [7] * 4
    encode, eos = free.solo.duels.task.tokenizer.encode, free.solo.duels.rules.eos
    seen = set()
    for episode in range(40):
        text = texts[episode % 3]
        starts = [env.reset(seed=2 if episode == 0 else None) for env in (listed, free)]
        assert starts[0][0].tolist() == starts[1][0].tolist()
        tokens = [*encode(text), eos, 3, 3, 3, 3][:4]  # whatever follows EOS
        ends = [listed.step(episode % 3), free.step(np.array(tokens))]
        assert ends[0][1:] == ends[1][1:]
        assert ends[0][0].tolist() == starts[0][0].tolist()
        assert ends[0][2:4] == (True, False)
        assert listed.solo.duels.completion(0, 0).text == text
        seen.add(ends[0][1])
    assert seen == {1.0, -1.0}


def test_a_finite_task_lists_its_own_candidates():
    env = response_env(learner="random", feedback="probability", **SYMBOLS)
    assert env.action_space.n == len(envs.make_task("symbols").responses)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(5)
    assert reward == pytest.approx((2 * info["preference"] - 1) * (1 if info["seat"] == 0 else -1))


def test_it_shows_the_duel():
    env = response_env(render_mode="ansi", opponent=["bbb"], **SYMBOLS)
    env.reset(seed=0)
    env.step(0)
    assert "player_0  aaa (limit)\nplayer_1  bbb (limit)\nverdict   player_" in env.render()


def test_bad_input_is_named(bandit):
    for options, message in (
        ({}, "lists no responses; pass candidates"),
        ({"candidates": []}, "at least one response text"),
        ({"candidates": ["abcabc"]}, "longer than the limit of 4"),
        ({"candidates": ["p"]}, "may not stand at place 1"),
        ({"actions": "words"}, "actions must be one of"),
        ({"actions": "tokens", "candidates": ["a"]}, "candidates need actions='candidates'"),
    ):
        with pytest.raises(ValueError, match=message):
            bandit(**options)
    listed, free = bandit(candidates=["a"]), bandit(actions="tokens")
    with pytest.raises(RuntimeError, match="call reset"):
        listed.step(0)
    listed.reset()
    for action in (1, -1, [0]):
        with pytest.raises(ValueError, match=r"index of a candidate in \[0, 1\)"):
            listed.step(action)
    with pytest.raises(TypeError):
        listed.step(0.5)
    listed.step(0)
    with pytest.raises(RuntimeError, match="call reset"):
        listed.step(0)
    free.reset()
    for action in ([2, 2], [2.0] * 4, 2):
        with pytest.raises(ValueError, match="token ids, got"):
            free.step(action)
    with pytest.raises(ValueError, match=r"ids in \[0, 7\)"):
        free.step([99] * 4)
    with pytest.raises(ValueError, match="knows no options"):
        free.reset(options={"x": 1})
