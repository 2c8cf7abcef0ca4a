"""The environments in episodes of verifiers, whose model calls are replaced by texts (needs verifiers)."""

import asyncio
import sys
from types import SimpleNamespace

import pytest
import torch

from oracles.table import TableOracle

pytestmark = pytest.mark.trainers
TEXTS = ["a", "b", "c"]
PAYOFF = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
MODULE = """
from oracles.adapters.verifiers import DuelTaskset, {env}

__all__ = ["DuelTaskset", "{env}"]
"""


class Player:
    """Answers as an agent of verifiers does: a trace joins the episode."""

    def __init__(self, name, texts, traces):
        self.name, self.texts, self.traces = name, texts, traces

    async def run(self, task):
        import verifiers.v1 as vf
        from verifiers.v1.trace import AgentInfo, TraceTask

        await asyncio.sleep(0)
        text = self.texts.pop(0)
        about = TraceTask(type="Task", data=task.data, key=task.key, hash=task.hash)
        trace = vf.Trace(task=about, agent=AgentInfo(config=vf.AgentConfig(), name=self.name))
        trace.ok, trace.root_reply = text is not None, text or ""
        self.traces.append(trace)


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Plays an episode of an environment that is found as verifiers finds it, by the name of a module."""

    def episode(kind, players, **fields):
        import verifiers.v1 as vf
        from verifiers.v1.utils import loaders

        (tmp_path / "duel_env.py").write_text(MODULE.format(env=kind))
        (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n{"prompt": [{"role": "user", "content": "y"}]}\n')
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("duel_env", None)
        assert loaders.taskset_class("duel_env").__name__ == "DuelTaskset"
        import oracles.adapters.verifiers as adapter

        monkeypatch.setattr(adapter, "make", lambda name, **more: TableOracle(PAYOFF, ["x", "y"], TEXTS))
        env_class = getattr(adapter, kind)
        config_class = {"SiblingsEnv": adapter.SiblingsConfig, "SeatsEnv": adapter.SeatsConfig}[kind]
        taskset = adapter.DuelTasksetConfig(id="duel_env", file=tmp_path / "prompts.jsonl")
        env = env_class(config_class(taskset=taskset, **fields))
        monkeypatch.setattr(
            env,
            "_episode_agents",
            lambda ctx, completed, *hooks: SimpleNamespace(
                **{name: Player(name, list(texts), completed) for name, texts in players.items()}
            ),
        )
        tasks = list(env.taskset)

        async def run():
            await env.start()
            return [await env.run_episode(task, vf.ModelContext(model="none", client=None)) for task in tasks]

        return asyncio.run(run())

    return episode


def test_siblings_are_rewarded_by_comparisons_with_each_other(play):
    for episode in play("SiblingsEnv", {"player": TEXTS}, attempts=3):
        assert episode.ok, episode.errors
        assert [trace.rewards["duel"].score for trace in episode.traces] == pytest.approx([0.55, 0.4, 0.55])


def test_seats_are_rewarded_by_the_chance_to_beat_the_other(play):
    for episode in play("SeatsEnv", {"player1": ["b"], "player0": ["a"]}):
        assert episode.ok, episode.errors
        rewards = {trace.agent.name: trace.rewards["duel"].score for trace in episode.traces}
        assert rewards == pytest.approx({"player0": 0.9, "player1": 0.1})


def test_an_attempt_that_failed_fails_the_episode_and_rewards_none(play):
    for episode in play("SiblingsEnv", {"player": ["a", None, "c"]}, attempts=3):
        assert not episode.ok
        assert "a completion of player failed" in episode.errors[-1].message
        assert not any(trace.rewards for trace in episode.traces)
