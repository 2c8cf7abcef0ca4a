"""Version 0 of the token-level duel for PettingZoo: `parallel_env`, `env`, `raw_env`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

from envs.tasks.task import Task
from envs.token_duel.build import token_duels
from envs.token_duel.duels import Illegal
from envs.token_duel.spaces import Mask, Obs
from envs.views.pettingzoo_env import PreferenceDuel
from oracles import Oracle
from preference_duel.types import Feedback


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
    """Builds the duel as a ParallelEnv; without arguments strings of three letters out of four, judged by `cyclic`.

    Args:
        task: a `Task`, or a name for `make_task`; None: "symbols" with strings of `max_cycles` letters, else three.
        oracle: an `Oracle`, or a name for `oracles.make`.
        feedback: "outcome" rewards +1 and -1 by the drawn verdict, "probability" 2P - 1 and its negative.
        seed: of the episodes before the first `reset(seed=...)`.
        obs: "dict" or "flat"; see `PreferenceDuel`.
        mask: where the action mask is; see `PreferenceDuel`.
        illegal: the effect of an illegal token; see `TokenDuels`.
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


def raw_env(**options: Any) -> AECEnv:
    """Builds the duel as an AECEnv without checks; the options are `parallel_env`'s."""
    return parallel_to_aec_wrapper(parallel_env(**options))


def env(**options: Any) -> AECEnv:
    """Builds the duel as an AECEnv that checks actions and the order of calls; the options are `parallel_env`'s."""
    return OrderEnforcingWrapper(AssertOutOfBoundsWrapper(raw_env(**options)))
