"""The OpenEnv environment, behind OpenEnv's own server and client (needs openenv)."""

import socket
import threading
import time
from functools import partial

import gymnasium
import numpy as np
import pytest
import uvicorn

from envs.token_duel.boards import tokens_of

pytestmark = pytest.mark.trainers
SYMBOLS = {"task": "symbols", "oracle": "cyclic"}


@pytest.fixture
def address():
    from openenv.core.env_server import create_app

    from envs.views.openenv_env import DuelAction, DuelEnvironment, DuelObservation

    factory = partial(DuelEnvironment, learner="player_1", **SYMBOLS)
    app = create_app(factory, DuelAction, DuelObservation, env_name="preference_duel", max_concurrent_envs=2)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_sessions_play_the_duels_of_gymnasium(address):
    from openenv.core.generic_client import GenericEnvClient

    duel = gymnasium.make("duel/ResponseDuel-v0", actions="tokens", learner="player_1", **SYMBOLS).unwrapped
    duels = duel.solo.duels
    text = duels.task.response_texts[5]
    tokens = tokens_of(text, duels.task, duels.rules)
    padded = np.array([*tokens, *[duels.rules.eos] * duels.limit][: duels.limit])
    with GenericEnvClient(base_url=address).sync() as first, GenericEnvClient(base_url=address).sync() as second:
        rewards = []
        for seed in range(8):
            duel.reset(seed=seed)
            reward = duel.step(padded)[1]
            prompt = first.reset(seed=seed).observation["prompt"]
            second.reset(seed=seed + 100)
            result = first.step({"response": text})
            assert (result.done, result.reward) == (True, reward)
            assert result.observation["prompt"] == prompt == duels.task.prompts[duels.prompts[0]]
            assert result.observation["opponent"] == duels.completion(0, 0).text
            assert result.observation["won"] == (reward > 0)
            rewards.append(reward)
    assert len(set(rewards)) == 2


def test_a_response_that_the_task_does_not_allow_is_an_error():
    from envs.views.openenv_env import DuelAction, DuelEnvironment

    duel = DuelEnvironment(**SYMBOLS)
    with pytest.raises(RuntimeError):
        duel.step(DuelAction(response=duel._duel.solo.duels.task.response_texts[0]))
    duel.reset(seed=0)
    with pytest.raises(ValueError, match="no token for 'not a symbol'"):
        duel.step(DuelAction(response="not a symbol"))
    assert duel.state.step_count == 0
