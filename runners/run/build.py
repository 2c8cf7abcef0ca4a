"""Builds task, oracle, policy, agent and arena of a run from its settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agents.policies.lm.loading import quiet
from envs.arena import DuelArena
from envs.offline import FileArena, load_lists, load_preferences
from envs.stages import StagedArena
from envs.tasks.task import Task
from envs.votes.rows import Reading
from envs.votes.thumbs import holds_demonstrations, holds_thumbs, load_demonstrations, load_thumbs
from envs.votes.writable import require_prompts, writable
from oracles import Oracle
from preference_duel import distributed
from preference_duel.chat import UnreadablePromptError
from preference_duel.keyed_random import hash_seed
from preference_duel.protocols import Agent, Arena, DescribedOracle, Policy, StagedAgent, traits
from runners.run.checkpoint import Checkpoint, load
from runners.run.config import DEFAULT_TAU, RunConfig, Settings, changed, config_class, is_finite, sampling
from runners.run.config_file import is_run, read_settings
from runners.run.evaluator import Evaluation
from runners.run.ranks import SplitOracle


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, as they are before the first step.

    Attributes:
        task: prompts and limits.
        oracle: decides the duels.
        reference: a frozen copy of the starting policy.
        agent: proposes and learns.
        arena: plays the proposed duels, or reads them from a file.
        evaluation: measures the agent's policy on held-out prompts.
        readings: statistics of the files that were read.
    """

    task: Task
    oracle: Oracle
    reference: Policy
    agent: Agent
    arena: Arena
    evaluation: Evaluation
    readings: Sequence[Reading] = ()


def build_experiment(settings: Settings, device: str) -> Experiment:
    """Builds the parts; the run's seed is hashed for each, so that neighbouring seeds share nothing.

    Raises:
        ValueError: if some fields do not fit each other or the task.
        OSError: if a file or checkpoint can't be read.
    """
    run, configs = settings.run, settings.configs

    seed = partial(seed_of, run)
    torch.manual_seed(seed("torch"))  # for outside policies, whose layers may use it
    free_text = not is_finite(settings.names["task"])
    load_tokenizer = getattr(configs["policy"], "load_tokenizer", None)
    task: Task = configs["task"].build(tokenizer=load_tokenizer() if free_text and load_tokenizer else None)
    oracle = build_oracle(configs["oracle"], task, device)
    policy: Policy = configs["policy"].build(task=task, device=device, seed=seed("policy"))
    if distributed.count() > 1:
        oracle = SplitOracle(oracle)
        if run.parallel == "fsdp":
            _shard(policy, settings.names["policy"])
    require_prompts(policy, task)
    reference = policy.snapshot()
    agent: Agent = configs["agent"].build(policy=policy, seed=seed("agent"))
    if run.opponent is not None:
        if not traits(agent).plays_opponents:
            raise ValueError(f"agent '{settings.names['agent']}' plays itself; of --run.opponent learns spo")
        agent.fixed_opponent = _opponent(run.opponent, task, policy.exact, device)  # pyright: ignore[reportAttributeAccessIssue]
    hidden = reference if run.feedback == "thumb" else None
    if hidden is not None and not traits(agent).learns_from_thumbs:
        raise ValueError(
            f"agent '{settings.names['agent']}' learns from pairs; with --run.feedback thumb take one that learns from "
            f"single responses, such as kto or dro"
        )
    arena: Arena = DuelArena(task, oracle, run.batch_size, run.feedback, run.votes, seed("arena"), hidden)
    readings = []
    if run.data is not None:
        arena, readings = _given_arena(settings, task, policy, agent)
    evaluation = Evaluation(
        task, oracle, reference, run.eval_prompts, run.eval_pairs, seed("evaluation"), tau_of(settings)
    )
    evaluation.pool = run.eval_pool
    return Experiment(task, oracle, reference, agent, arena, evaluation, readings)


def _given_arena(settings: Settings, task: Task, policy: Policy, agent: Agent) -> tuple[Arena, list[Reading]]:
    """Reads the data of a run, of several files to play them in turn."""
    run, name = settings.run, settings.names["agent"]
    if len(run.files) > 1 and not isinstance(agent, StagedAgent):
        raise ValueError(f"agent '{name}' learns from one file; with several take one such as dpo")
    read = [_file_arena(settings, path, task, policy, agent) for path in run.files]
    arenas, readings = [arena for arena, _ in read], [reading for _, reading in read]
    if len(arenas) == 1:
        return arenas[0], readings
    once = [math.ceil(len(arena.given) / arena.batch_size) for arena in arenas[:-1]]
    staged = StagedArena(arenas, once if run.stage_steps is None else [run.stage_steps] * len(once))
    if run.steps <= staged.starts[-1]:
        raise ValueError(
            f"{run.files[-1]} begins after step {staged.starts[-1]}, and the run ends with step {run.steps}; take more "
            f"--run.steps, or fewer steps on each file by --run.stage_steps"
        )
    return staged, readings


def _file_arena(settings: Settings, path: str, task: Task, policy: Policy, agent: Agent) -> tuple[FileArena, Reading]:
    """Reads a file of a run as its agent takes it: as thumbs, demonstrations, whole lists, or pairs."""
    run, can = settings.run, traits(agent)
    if not can.learns_from_files:
        raise ValueError(
            f"agent '{settings.names['agent']}' learns from its own samples; with --run.data take one that learns "
            f"from files, such as dpo, ipo or pelhf"
        )
    read: Callable[..., tuple[list[Any], Reading]] = load_lists if can.learns_from_lists else load_preferences
    if can.learns_from_thumbs and holds_thumbs(path, run.reading):
        kinds = {0.0: can.learns_from_dislikes, 1.0: can.learns_from_likes}
        read = partial(load_thumbs, alone=[label for label, enough in kinds.items() if enough])
    elif can.learns_from_likes and holds_demonstrations(path, run.reading):
        read = load_demonstrations
    given, reading = read(path, run.reading)
    with quiet():
        given = writable(policy, given, reading, run.unwritable)
    batch = None if run.batch_size is None else min(run.batch_size, len(given))
    arena = FileArena(task, given, batch, seed_of(run, "arena"))
    if can.one_pass and run.steps * arena.batch_size > len(given):
        raise ValueError(
            f"agent '{settings.names['agent']}' counts each comparison once: {run.steps} steps of {arena.batch_size} "
            f"are more than the {len(given)} of {path}; take --run.steps {len(given) // arena.batch_size}, or all "
            f"at once by --run.batch_size None --run.steps 1"
        )
    return arena, reading


def build_oracle(config: Any, task: Task, device: str) -> Oracle:
    """Builds the oracle that judges a task.

    Raises:
        ValueError: if a field does not fit, or, with its place, if the oracle's chat template refuses a prompt.
        OSError: if a checkpoint can't be read.
    """
    texts = None if task.responses is None else task.response_texts
    try:
        return config.build(prompts=task.all_prompts, responses=texts, device=device)
    except UnreadablePromptError as error:
        raise error.at(task.places.get(error.prompt, task.name)) from error


def load_experiment(directory: Path, settings: Settings, device: str) -> tuple[Experiment, Checkpoint]:
    """Builds an experiment with its agent as it was saved last in a run directory.

    Args:
        directory: of the run.
        settings: of the run, or of another one that needs its agent.
        device: device of networks.

    Raises:
        ValueError: if there is no checkpoint; as `build_experiment`.
        OSError: as `build_experiment`.
    """
    saved = load(directory)
    if saved is None:
        raise ValueError(f"{directory} has no checkpoint yet; let it run on, or start it with --run.save_every 1")
    experiment = build_experiment(settings, device)
    experiment.agent.load_state_dict(saved.agent)
    return experiment, saved


def _opponent(name: str, task: Task, exact: bool, device: str) -> Policy:
    """Returns the last policy of a run, or a language model, frozen; it samples unless the learning policy is exact."""
    directory = Path(name)
    if not is_run(directory):
        kind, fields = config_class("policy", name)
        return kind(**fields).build(task=task, device=device, seed=0).frozen()
    settings = read_settings(directory)
    experiment, _ = load_experiment(directory, settings if exact else sampling(settings), device)
    if (experiment.task.name, experiment.task.responses) != (task.name, task.responses):
        raise ValueError(f"--run.opponent {name} plays {experiment.task.name}, and this run {task.name}")
    return experiment.agent.policy.frozen()


def seed_of(run: RunConfig, purpose: str) -> int:
    """Returns the seed of one part of a run."""
    return hash_seed(run.seed, purpose)


def _shard(policy: Policy, name: str) -> None:
    if not hasattr(policy, "shard"):
        raise ValueError(f"--run.parallel fsdp spreads language models over processes, and the policy is '{name}'")
    policy.shard()  # pyright: ignore[reportCallIssue] - it was looked for


def tau_of(settings: Settings) -> float:
    """Returns the KL coefficient of the regularised game that a run on a finite task is measured by; never 0."""
    if settings.run.eval_tau is not None:
        return settings.run.eval_tau
    return float(getattr(settings.configs["agent"], "tau", 0)) or DEFAULT_TAU


def judge(settings: Settings, oracle: Oracle) -> str:
    """Returns the oracle in one line: its own `description`, or its name and the fields that were changed."""
    if isinstance(oracle, DescribedOracle):
        return oracle.description
    config: Any = settings.configs["oracle"]
    leading = dataclasses.fields(config)[:1]  # a checkpoint, a path, the kind of game
    first = {field.name: getattr(config, field.name) for field in leading}
    telling = first | changed(config)
    return " ".join([settings.names["oracle"], *(f"{name}={value}" for name, value in telling.items())])


def choose_device(wanted: str) -> str:
    """Returns "cpu" or "cuda".

    Raises:
        ValueError: if cuda is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("--run.device cuda: torch sees no CUDA device here; use --run.device cpu")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted
