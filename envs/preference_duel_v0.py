"""Version 0 of the token-level duel for PettingZoo: `parallel_env`, `env`, `raw_env`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pettingzoo import AECEnv, register
from pettingzoo.env_registry.registration import aec_registry
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

from envs.core import Illegal, TokenDuels
from envs.preference_duel import PreferenceDuel
from envs.spaces import Mask, Obs
from envs.tasks import Task, make_task
from envs.types import Feedback
from oracles import Oracle, make

ID = "duel/preference_duel-v0"


def parallel_env(  # noqa: PLR0913 - the options of the public constructor, all by name
    *,
    task: str | Task | None = None,
    oracle: str | Oracle = "cyclic",
    feedback: Feedback = "outcome",
    seed: int = 0,
    obs: Obs = "dict",
    mask: Mask | None = None,
    illegal: Illegal = "replace",
    render_mode: str | None = None,
    max_cycles: int | None = None,
    min_new_tokens: int | None = None,
) -> PreferenceDuel:
    """Builds the duel as a ParallelEnv; without arguments three letters of four, judged by half a cycle.

    Args:
        task: a `Task`, or a name for `make_task`; None: "symbols" with strings of `max_cycles` letters, else three.
        oracle: an `Oracle`, or a name for `oracles.make`.
        feedback: "outcome" rewards +1 and -1 by the drawn verdict, "probability" 2P - 1 and its negative.
        seed: of the episodes before the first `reset(seed=...)`.
        obs: "dict" or "flat"; see `PreferenceDuel`.
        mask: where the action mask is; see `PreferenceDuel`.
        illegal: what an illegal token does; see `TokenDuels`.
        render_mode: "human", "ansi" or None.
        max_cycles: the limit in tokens, in place of the task's.
        min_new_tokens: tokens before EOS is legal, in place of the task's.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    duels = token_duels(
        1,
        task=task,
        oracle=oracle,
        feedback=feedback,
        illegal=illegal,
        max_cycles=max_cycles,
        min_new_tokens=min_new_tokens,
    )
    return PreferenceDuel(duels, seed, obs, mask, render_mode)


def token_duels(
    size: int,
    *,
    task: str | Task | None = None,
    oracle: str | Oracle = "cyclic",
    feedback: Feedback = "outcome",
    illegal: Illegal = "replace",
    max_cycles: int | None = None,
    min_new_tokens: int | None = None,
) -> TokenDuels:
    """Builds the rules that every view is thin over; see `parallel_env`.

    Raises:
        UnknownNameError: if the task's or the oracle's name is unknown.
        ValueError: if an argument is out of its range.
    """
    if task is None:
        task = make_task("symbols") if max_cycles is None else make_task("symbols", length=max_cycles)
    elif isinstance(task, str):
        task = make_task(task)
    task = limited(task, max_cycles, min_new_tokens)
    if isinstance(oracle, str):
        responses = None if task.responses is None else task.response_texts
        oracle = make(oracle, prompts=task.all_prompts, responses=responses)
    return TokenDuels(task, oracle, size, feedback, illegal)


def raw_env(**options: Any) -> AECEnv:
    """Builds the duel as an AECEnv without checks; the options are `parallel_env`'s."""
    return parallel_to_aec_wrapper(parallel_env(**options))


def env(**options: Any) -> AECEnv:
    """Builds the duel as an AECEnv that checks actions and the order of calls; the options are `parallel_env`'s."""
    return OrderEnforcingWrapper(AssertOutOfBoundsWrapper(raw_env(**options)))


def limited(task: Task, max_new_tokens: int | None, min_new_tokens: int | None) -> Task:
    """Returns the task under other limits; None keeps the task's.

    Raises:
        ValueError: if a finite task's limits would change: it lists the responses that they allow.
    """
    most = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    least = min(task.min_new_tokens, most) if min_new_tokens is None else min_new_tokens
    if (most, least) == (task.max_new_tokens, task.min_new_tokens):
        return task
    if task.responses is not None:
        raise ValueError(
            f"task '{task.name}' lists its responses, of {task.min_new_tokens} to {task.max_new_tokens} tokens; "
            f"limits of {least} to {most} would make others: build the task with another length instead"
        )
    return replace(task, max_new_tokens=most, min_new_tokens=least)


if ID not in aec_registry:
    register("aec", ID, f"{__name__}:env")
    register("parallel", ID, f"{__name__}:parallel_env")
