"""Verdicts: what a judge's answer says about a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Verdict = Literal["first", "second", "tie", "both_bad", "unread"]
"""The better of the two responses as they were shown; both_bad is a tie of two that are no good."""
CHANCE: Mapping[str, float] = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5, "unread": math.nan}
"""P(the response shown first is better) by verdict."""


class Reading(NamedTuple):
    """A verdict, and P(the response shown first is better), NaN if it is unread."""

    verdict: Verdict
    chance: float


def reading(verdict: Verdict) -> Reading:
    """Returns a verdict with its chance."""
    return Reading(verdict, CHANCE[verdict])


def likelier(chance: float) -> Reading:
    """Returns a chance with the verdict that it is nearest to."""
    return Reading("first" if chance > 0.5 else "second" if chance < 0.5 else "tie", chance)


def only(verdicts: set[Verdict]) -> Verdict:
    """Returns what an answer says that states its verdict once or more; unread if that is nothing or not one thing."""
    return next(iter(verdicts)) if len(verdicts) == 1 else "unread"
