"""Policies that are compared with one another: those of runs, and language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.tasks.task import Task
from envs.votes.writable import require_prompts
from oracles.human.human_config import HumanConfig
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.keyed_random_torch import choose as pick
from preference_duel.protocols import Policy
from preference_duel.types import Completion
from runners.evaluation.saved_runs import labels
from runners.run.build import load_experiment
from runners.run.config import Settings, config_class, is_finite
from runners.run.config_file import is_run, read_settings


@dataclass(frozen=True)
class Entrant:
    """A policy with the task as it reads it.

    Attributes:
        label: tells it from the others.
        policy: gives the responses.
        task: prompts and limits, with the policy's own tokenizer.
    """

    label: str
    policy: Policy
    task: Task

    def responses(self, prompts: Sequence[str], draws: int, key: Key) -> list[list[str]]:
        """Returns [B][n] texts of samples."""
        return texts_of(sampled(self.policy, prompts, draws, key))


def sampled(policy: Policy, prompts: Sequence[str], count: int, key: Key) -> list[list[Completion]]:
    """Returns [B][count] samples of a policy, also of one that lists its whole distribution."""
    with torch.no_grad():
        rows, weights = policy.draw(prompts, count, key)
    if not policy.exact:
        return rows
    uniforms = key.uniform(k=np.arange(count)[None, :], l=np.arange(len(rows))[:, None])
    chosen = pick(weights, torch.from_numpy(uniforms)).tolist()
    return [[row[i] for i in columns] for row, columns in zip(rows, chosen, strict=True)]


def texts_of(responses: Sequence[Sequence[Completion]]) -> list[list[str]]:
    """Returns the texts of rows of responses."""
    return [[response.text for response in row] for row in responses]


def read_entrants(names: Sequence[str], task: str | None, device: str, least: int = 2) -> list[Entrant]:
    """Loads policies.

    Args:
        names: run directories, transformers directories or hub ids, or names of policies.
        task: name of the task; None: that of the runs.
        device: where networks run.
        least: how many there must be.

    Raises:
        ValueError: if there are fewer, one is named twice, a run has no checkpoint, or no task is known.
        UnknownNameError: if there is no such policy or task.
        OSError: if one can't be read.
    """
    if len(names) < least or len(set(names)) < len(names):
        raise ValueError(
            f"expected {'one policy' if least == 1 else 'two policies'} or more, each once, got {', '.join(names)}"
        )
    runs = {name: read_settings(Path(name)) for name in names if is_run(Path(name))}
    chosen = _task(task, runs)
    titles = dict(zip(runs, labels(list(runs.values()), [Path(name) for name in runs]), strict=True))
    return [
        _of_run(name, runs[name], titles[name], chosen, device) if name in runs else _of_model(name, chosen, device)
        for name in names
    ]


def _task(name: str | None, runs: dict[str, Settings]) -> tuple[str, Any]:
    """Returns the name and the configuration of the task."""
    if name is not None:
        kind, fields = config_class("task", name)
        return name, kind(**fields)
    found = [(one.names["task"], one.configs["task"]) for one in runs.values()]
    if not found or any(other != found[0] for other in found):
        raise ValueError(f"{'the runs have different tasks' if found else 'no run names a task'}: pass --task")
    return found[0]


def _of_run(name: str, settings: Settings, label: str, task: tuple[str, Any], device: str) -> Entrant:
    names = settings.names | {"task": task[0], "oracle": "human"}  # which loads nothing
    configs = settings.configs | {"task": task[1], "oracle": HumanConfig()}
    reading = type(settings.run.reading)()
    run = dataclasses.replace(settings.run, data=None, stage_steps=None, reading=reading, unwritable="stop")
    experiment, _ = load_experiment(Path(name), Settings(names, configs, run), device)
    return Entrant(label, experiment.agent.policy, experiment.task)


def _of_model(name: str, task: tuple[str, Any], device: str) -> Entrant:
    kind, fields = config_class("policy", name)
    config = kind(**fields)
    load_tokenizer = None if is_finite(task[0]) else getattr(config, "load_tokenizer", None)
    built: Task = task[1].build(tokenizer=None if load_tokenizer is None else load_tokenizer())
    policy: Policy = config.build(task=built, device=device, seed=0)
    require_prompts(policy, built)
    return Entrant(name, policy, built)


def draw_all(
    entrants: Sequence[Entrant], prompts: Sequence[str], draws: int, seed: int, purpose: str = "collect"
) -> list[list[list[str]]]:
    """Returns [entrant][B][n] responses, independent of each other; `purpose` goes into the seed."""
    key = Key(hash_seed(purpose, seed), 0, Stream.EVALUATION)
    return [entrant.responses(prompts, draws, key.at(i)) for i, entrant in enumerate(entrants)]
