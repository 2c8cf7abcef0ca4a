"""Seeds of one run in one batch: worlds whose prompts follow one another, learned together as if each were alone.

A table's row learns from its own prompt's duels alone, so that the rows of several seeds fit into one table: one pass
through the loop then makes a step of each. Random numbers are keyed, and gradients are clipped world by world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from agents.optim.optimiser import TogetherError
from agents.policies.tabular import TabularPolicy
from envs.arena import DuelArena
from envs.tasks.task import Task
from oracles.table import TableOracle
from preference_duel.keyed_random import Worlds
from preference_duel.protocols import Agent, traits
from runners.run.build import Experiment, build_experiment, seed_of, tau_of
from runners.run.config import RunConfig, Settings
from runners.run.evaluator import Evaluation


def stack(settings: Sequence[Settings]) -> Experiment:
    """Returns several runs as one experiment: world w is the run of settings w.

    `Evaluation.by_prompt` returns the worlds' prompts one after the other; `DuelArena.queries` counts those of all.

    Args:
        settings: of W runs that may differ in everything that names random numbers: the run's seed, the oracle's, the
            start's.

    Raises:
        TogetherError: if they can't be learned together; each alone they can.
        ValueError: as `runners.run.build.build_experiment`.
    """
    run, worlds = settings[0].run, len(settings)
    first = build_experiment(settings[0], "cpu")
    _require_stackable(first, run)
    singles = [first, *(build_experiment(one, "cpu") for one in settings[1:])]
    task = stacked(first.task, worlds)
    policy = TabularPolicy(task, exact=first.agent.policy.exact, worlds=worlds)
    policy.load_state_dict({"logits": torch.cat([one.agent.policy.state_dict()["logits"] for one in singles])})
    size = len(first.task.prompts) if run.batch_size is None else run.batch_size

    def seeds(purpose: str) -> Worlds:
        return Worlds(np.array([seed_of(one.run, purpose) for one in settings], dtype=np.uint64), size)

    agent: Agent = settings[0].configs["agent"].build(policy=policy, seed=seeds("agent"))
    oracle = TableOracle(torch.cat([one.evaluation.matrices for one in singles]), task.prompts, task.response_texts)
    arena = DuelArena(task, oracle, run.batch_size, run.feedback, run.votes, seeds("arena"))
    reference = policy.frozen()
    evaluation = Evaluation(task, oracle, reference, len(task.prompts), run.eval_pairs, 0, tau_of(settings[0]))
    return Experiment(task, oracle, reference, agent, arena, evaluation)


def stacked(task: Task, worlds: int) -> Task:
    """Returns a finite task whose prompts are those of every world, named WORLD:PROMPT."""
    prompts = tuple(f"{world}:{prompt}" for world in range(worlds) for prompt in task.prompts)
    return dataclasses.replace(task, prompts=prompts, held_out=prompts, prob=None)


def _require_stackable(experiment: Experiment, run: RunConfig) -> None:
    """Raises TogetherError where one world would learn another thing in company."""
    if not isinstance(experiment.agent.policy, TabularPolicy):
        raise TogetherError("only tables have rows that learn by themselves")
    if not traits(experiment.agent).learns_worlds:
        raise TogetherError("the agent does not say that it `learns_worlds`")
    if experiment.arena.offline:
        raise TogetherError("a file is learned from alone")
    if experiment.task.prompts != experiment.task.held_out or len(experiment.task.prompts) > run.eval_prompts:
        raise TogetherError("the prompts that are measured are not all that are learned from")
