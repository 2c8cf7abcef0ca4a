"""Checks, before the first step, that a policy reads every prompt and could have written every given response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from envs.tasks.task import Task
from envs.votes.lists import ResponseList
from envs.votes.preferences import Preference
from envs.votes.rows import REASON, SAME, Reading, Skipped
from envs.votes.thumbs import Thumb
from preference_duel.protocols import Policy
from preference_duel.types import Completion

Unwritable = Literal["stop", "skip", "cut"]
Given = TypeVar("Given", Preference, ResponseList, Thumb)


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


def writable(policy: Policy, given: Sequence[Given], reading: Reading, unwritable: Unwritable) -> list[Given]:
    """Returns the preferences, lists or thumbs whose prompts the policy reads and whose responses it could have drawn.

    Args:
        policy: what learns.
        given: of a file.
        reading: the report of it; what is left out or cut is added.
        unwritable: what happens to the others.

    Raises:
        ValueError: with the place of the first one and their number, if the run is to stop at them; or if none is left.
    """
    kept: list[Given] = []
    wrong: list[tuple[str, str]] = []
    for one in given:
        fitting = one
        if unwritable == "cut":
            fitting = one.cut(policy.shortened)
            if fitting != one:
                _count(reading.shortened, "longer than the policy's limit", one.place)
        if len(set(fitting.texts)) == 1 < len(fitting.texts):
            _count(reading.passed, SAME, one.place)
            continue
        message = _obstacle(policy, fitting)
        if message is None:
            kept.append(fitting)
        else:
            wrong.append((one.place, message))
    if wrong and (unwritable == "stop" or not kept):
        place, message = wrong[0]
        raise ValueError(
            f"{place}: {message}. {len(wrong)} of {len(given)} {reading.kind} can't be learned by this policy; "
            f"--run.unwritable skip leaves them out, --run.unwritable cut shortens responses that are too long"
        )
    for place, message in wrong:
        _count(reading.unusable, _reason(message), place)
    if not kept:
        raise ValueError(f"{reading.path}: once cut, the responses of each of the {reading.kind} are the same")
    reading.used = len(kept)
    return kept


def _obstacle(policy: Policy, one: Preference | ResponseList | Thumb) -> str | None:
    """Returns why a policy can't learn from a row; None: it can."""
    try:
        policy.require_prompt(one.prompt)
        for text in one.texts:
            policy.require_response(Completion(text))
    except ValueError as error:
        return str(error)
    return None


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
