"""Reward functions for TRL's GRPOTrainer and RLOOTrainer: comparisons inside each prompt's group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from oracles.adapters.messages import Messages, completion_text, prompt_text
from oracles.group_rewards import Schedule, group_rewards
from oracles.registry import make
from preference_duel.groups import Aggregate
from preference_duel.protocols import Oracle, forget


def duel_reward(
    oracle: Oracle | str,
    *,
    num_generations: int,
    schedule: Schedule = "all_pairs",
    aggregate: Aggregate = "win_rate",
    leave_one_out: bool = True,
) -> Callable[..., list[float]]:
    """Returns a function for `reward_funcs` that rewards completions by comparisons with the others of their prompt.

    TRL calls it in each process with the completions of that process, so that every group must lie in one:
    `per_device_train_batch_size * steps_per_generation` divisible by `num_generations`. A group that does not is an
    error, since rewards of a part of it would be other rewards. It logs `duel/queries` and `duel/unanswered` where TRL
    passes `log_metric`.

    Args:
        oracle: an oracle, or its name.
        num_generations: K, as in the trainer's configuration.
        schedule: see `oracles.group_rewards.group_rewards`.
        aggregate: see `oracles.group_rewards.group_rewards`.
        leave_one_out: see `oracles.group_rewards.group_rewards`.

    Raises:
        ValueError: if a group has fewer than two completions.
    """
    if num_generations < 2:
        raise ValueError(
            f"num_generations must be at least 2, got {num_generations}: one completion has no other to beat"
        )
    judge = make(oracle) if isinstance(oracle, str) else oracle

    def duel(prompts: Sequence[Messages], completions: Sequence[Messages], **columns: Any) -> list[float]:
        """Returns a reward for each completion."""
        groups = _groups(prompts, num_generations)
        texts = [completion_text(completion) for completion in completions]
        rows = [texts[i : i + num_generations] for i in range(0, len(texts), num_generations)]
        result = group_rewards(judge, groups, rows, schedule=schedule, aggregate=aggregate, leave_one_out=leave_one_out)
        forget(judge)
        log_metric = columns.get("log_metric")
        if log_metric is not None:
            log_metric("duel/queries", float(result.queries))
            log_metric("duel/unanswered", float(len(result.unanswered)))
        return result.rewards.flatten().tolist()

    return duel


def _groups(prompts: Sequence[Messages], size: int) -> list[str]:
    """Returns the prompt of each group.

    Raises:
        ValueError: if a group is not whole.
    """
    texts = [prompt_text(prompt) for prompt in prompts]
    rows = [texts[i : i + size] for i in range(0, len(texts), size)]
    broken = next((i for i, row in enumerate(rows) if len(row) < size or len(set(row)) > 1), None)
    if broken is not None:
        raise ValueError(
            f"completions {broken * size} to {broken * size + len(rows[broken]) - 1} of this process are not one whole "
            f"group of num_generations={size}: make per_device_train_batch_size * steps_per_generation (in evaluation "
            f"per_device_eval_batch_size) divisible by num_generations, and pass duel_reward the trainer's value"
        )
    return [row[0] for row in rows]
