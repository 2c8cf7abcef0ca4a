"""Batches of seeds: replicas of one run whose prompts follow one another and that learn as if each were alone.

A table's row learns from its own prompt's duels alone, so that the rows of several seeds fit into one table: one pass
through the loop then makes a step of each. Random numbers are keyed, and gradients are clipped for each replica.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from agents.policies.replicas import NotBatchableError, ReplicaTable
from agents.policies.tabular import TabularPolicy
from envs.arena import DuelArena
from envs.tasks.task import Task
from oracles.table import TableOracle
from preference_duel.keyed_random import ReplicaSeeds
from preference_duel.protocols import Agent, traits
from runners.run.build import Experiment, build_experiment, seed_of, tau_of
from runners.run.config import RunConfig, Settings
from runners.run.evaluator import Evaluation


def batch_seeds(settings: Sequence[Settings]) -> Experiment:
    """Returns several runs as one experiment: replica r is the run of settings r.

    `Evaluation.by_prompt` returns the replicas' prompts one after the other; `DuelArena.queries` counts those of all.

    Args:
        settings: of R runs that may differ in their random seeds: the run's, the oracle's, the start's.

    Raises:
        NotBatchableError: if they can't learn in one batch; each alone they can.
        ValueError: as `runners.run.build.build_experiment`.
    """
    run, replicas = settings[0].run, len(settings)
    first = build_experiment(settings[0], "cpu")
    _require_batchable(first, run)
    singles = [first, *(build_experiment(one, "cpu") for one in settings[1:])]
    task = repeated(first.task, replicas)
    policy = ReplicaTable(task, replicas, first.agent.policy.exact)
    policy.load_state_dict({"logits": torch.cat([one.agent.policy.state_dict()["logits"] for one in singles])})
    size = len(first.task.prompts) if run.batch_size is None else run.batch_size

    def seeds(purpose: str) -> ReplicaSeeds:
        return ReplicaSeeds(np.array([seed_of(one.run, purpose) for one in settings], dtype=np.uint64), size)

    agent: Agent = settings[0].configs["agent"].build(policy=policy, seed=seeds("agent"))
    oracle = TableOracle(torch.cat([one.evaluation.matrices for one in singles]), task.prompts, task.response_texts)
    arena = DuelArena(task, oracle, run.batch_size, run.feedback, run.votes, seeds("arena"))
    reference = policy.frozen()
    evaluation = Evaluation(task, oracle, reference, len(task.prompts), run.eval_pairs, 0, tau_of(settings[0]))
    return Experiment(task, oracle, reference, agent, arena, evaluation)


def repeated(task: Task, replicas: int) -> Task:
    """Returns a finite task whose prompts are those of every replica, named REPLICA:PROMPT."""
    prompts = tuple(f"{replica}:{prompt}" for replica in range(replicas) for prompt in task.prompts)
    return dataclasses.replace(task, prompts=prompts, held_out=prompts, prob=None)


def _require_batchable(experiment: Experiment, run: RunConfig) -> None:
    """Raises NotBatchableError if a replica would learn differently from the same run alone."""
    if not isinstance(experiment.agent.policy, TabularPolicy):
        raise NotBatchableError("only the rows of tables learn by themselves")
    if not traits(experiment.agent).batchable:
        raise NotBatchableError("the agent is not `batchable` with these settings: it mixes prompts")
    if experiment.arena.offline:
        raise NotBatchableError("a file of preferences is for one run at a time")
    if experiment.task.prompts != experiment.task.held_out or len(experiment.task.prompts) > run.eval_prompts:
        raise NotBatchableError("the prompts that are measured are not all that are learned from")
