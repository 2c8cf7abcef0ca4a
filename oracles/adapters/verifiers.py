"""Environments for verifiers (v1): siblings of one prompt that are compared with each other, and two seats."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports] - optional
from pydantic import Field

from oracles.adapters.messages import prompt_text
from oracles.group_rewards import Schedule, group_rewards
from oracles.registry import make
from preference_duel.groups import Aggregate
from preference_duel.json_text import read_json_lines
from preference_duel.protocols import Oracle, forget


class DuelTasksetConfig(vf.TasksetConfig):
    """Where the prompts are."""

    file: Path = Path("prompts.jsonl")
    """JSON lines with a `prompt` each, text or messages."""


class DuelTaskset(vf.Taskset[vf.Task, DuelTasksetConfig]):
    """The prompts of a file, one task each."""

    def load(self) -> Iterator[vf.Task]:
        """Yields the tasks."""
        for line, row in read_json_lines(self.config.file):
            prompt_text(row["prompt"])
            yield vf.Task(vf.TaskData(name=f"line {line}", prompt=row["prompt"]), self.config.task)


class OracleConfig(vf.EnvConfig):
    """Which oracle compares."""

    oracle: str = "pairrm"
    """Name of the oracle."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Fields of its configuration."""


class _Judged:
    """The oracle of an environment, asked in a thread by one episode at a time."""

    def __init__(self, config: OracleConfig) -> None:
        self._oracle: Oracle = make(config.oracle, **config.fields)
        self._lock = asyncio.Lock()

    async def rewards(self, prompt: str, traces: Sequence[vf.Trace], **reduction: Any) -> list[float]:
        """Returns a reward for each trace.

        Raises:
            ValueError: if a trace failed, or is left without an answered comparison.
        """
        failed = next((trace for trace in traces if not trace.ok), None)
        if failed is not None:
            raise ValueError(
                f"a completion of {failed.agent.name} failed: rewards of the others would be other rewards"
            )
        texts = [trace.last_reply for trace in traces]
        async with self._lock:
            try:
                result = await asyncio.to_thread(group_rewards, self._oracle, [prompt], [texts], **reduction)
            finally:
                forget(self._oracle)
        return result.rewards[0].tolist()


def _prompt(task: vf.Task) -> str:
    prompt = task.data.prompt
    return prompt_text(prompt if isinstance(prompt, str) else [message.model_dump() for message in prompt or ()])


class SiblingsConfig(OracleConfig):
    """One player whose attempts are compared with each other."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"})
    attempts: int = Field(4, ge=2)
    """Completions of a prompt."""
    schedule: Schedule = "all_pairs"
    aggregate: Aggregate = "win_rate"


class SiblingsEnv(vf.Env[SiblingsConfig]):
    """Rewards each attempt at a prompt by comparisons with the others, as `duel`."""

    async def start(self) -> None:
        """Builds the oracle."""
        self.judged = _Judged(self.config)

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Makes the attempts."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.attempts):
                group.create_task(agents.player.run(task))

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Rewards the attempts; raises if one is missing or failed."""
        if len(episode.traces) != self.config.attempts:
            raise ValueError(f"expected {self.config.attempts} attempts, got {len(episode.traces)}")
        reduction = {"schedule": self.config.schedule, "aggregate": self.config.aggregate}
        rewards = await self.judged.rewards(_prompt(task), episode.traces, **reduction)
        for trace, reward in zip(episode.traces, rewards, strict=True):
            trace.record_reward("duel", reward)


class SeatsConfig(OracleConfig):
    """Two players of a duel: by default both are the policy that learns."""

    player0: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"})
    player1: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"})


class SeatsEnv(vf.Env[SeatsConfig]):
    """Rewards each seat by the chance that it beats the other, as `duel`."""

    async def start(self) -> None:
        """Builds the oracle."""
        self.judged = _Judged(self.config)

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Lets both seats respond."""
        async with asyncio.TaskGroup() as group:
            group.create_task(agents.player0.run(task))
            group.create_task(agents.player1.run(task))

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Rewards the seats; raises if one is missing or failed."""
        traces = sorted(episode.traces, key=lambda trace: trace.agent.name)
        if [trace.agent.name for trace in traces] != ["player0", "player1"]:
            raise ValueError(f"expected player0 and player1, got {[trace.agent.name for trace in traces]}")
        rewards = await self.judged.rewards(_prompt(task), traces)
        for trace, reward in zip(traces, rewards, strict=True):
            trace.record_reward("duel", reward)
