"""Builds token-level duels from a task, an oracle and their options."""

from __future__ import annotations

from dataclasses import replace

from envs.tasks.task import Task, make_task
from envs.token_duel.duels import Illegal, TokenDuels
from oracles import Oracle, make
from preference_duel.types import Feedback


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
    """Builds the duels of every view; arguments: `preference_duel_v0.parallel_env`.

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
            f"limits of {least} to {most} would allow others: build the task with another length instead"
        )
    return replace(task, max_new_tokens=most, min_new_tokens=least)
