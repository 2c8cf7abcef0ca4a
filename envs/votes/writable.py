"""Checks, before the first step, that a policy reads every prompt and could have written every given response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from envs.tasks.task import Task
from envs.votes.preferences import Preference
from envs.votes.rows import REASON, SAME, Reading, Skipped
from preference_duel.protocols import Policy
from preference_duel.types import Completion

Unwritable = Literal["stop", "skip", "cut"]


def require_prompts(policy: Policy, task: Task) -> None:
    """Checks that the policy reads every prompt of a task.

    Raises:
        ValueError: with the place of the first that it can't read.
    """
    for prompt in task.all_prompts:
        try:
            policy.require_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"{task.places.get(prompt, task.name)}: {error}") from error


def writable(
    policy: Policy, preferences: Sequence[Preference], reading: Reading, unwritable: Unwritable
) -> list[Preference]:
    """Returns the preferences whose prompts the policy reads and whose responses it could have drawn.

    Args:
        policy: what learns.
        preferences: of a file.
        reading: the report of it; what is left out or cut is added.
        unwritable: what happens to the others.

    Raises:
        ValueError: with the place of the first one and their number, if the run is to stop at them; or if none is left.
    """
    kept: list[Preference] = []
    wrong: list[tuple[str, str]] = []
    for one in preferences:
        fitting = one
        if unwritable == "cut":
            fitting = replace(one, first=policy.shortened(one.first), second=policy.shortened(one.second))
            if fitting != one:
                _count(reading.shortened, "longer than the policy's limit", one.place)
        if fitting.first == fitting.second:
            _count(reading.passed, SAME, one.place)
            continue
        try:
            policy.require_prompt(fitting.prompt)
            policy.require_response(Completion(fitting.first))
            policy.require_response(Completion(fitting.second))
        except ValueError as error:
            wrong.append((one.place, str(error)))
        else:
            kept.append(fitting)
    if wrong and (unwritable == "stop" or not kept):
        place, message = wrong[0]
        raise ValueError(
            f"{place}: {message}. {len(wrong)} of {len(preferences)} preferences can't be learned by this policy; "
            f"--run.unwritable skip leaves them out, --run.unwritable cut shortens responses that are too long"
        )
    for place, message in wrong:
        _count(reading.unusable, _reason(message), place)
    if not kept:
        raise ValueError(f"{reading.path}: once cut, both responses of every preference are the same")
    reading.used = len(kept)
    return kept


def _count(counts: dict[str, Skipped], reason: str, place: str) -> None:
    counts[reason] = counts.get(reason, Skipped(0, ())).plus([place], 1)


def _reason(message: str) -> str:
    """Returns the part of a message that many rows share."""
    for part, reason in (
        ("more than the limit", "longer than the policy's limit"),
        ("fewer than min_new_tokens", "shorter than min_new_tokens"),
        ("vocabulary", "outside of the policy's vocabulary"),
        ("the model reads", "prompt too long for the model"),
    ):
        if part in message:
            return reason
    return REASON.split(message)[0]
