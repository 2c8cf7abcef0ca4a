"""Answers that hold [[A>>B]], [[A>B]], [[A=B]], [[B>A]] or [[B>>A]], as Arena-Hard's judges write them."""

from __future__ import annotations

import re

from oracles.judging.question import PAIR
from oracles.judging.verdicts import Verdict, only

TEMPLATE = (
    """Two assistants answered the same request. Explain briefly which answer is better, whatever their order and
length. Then end with one of these verdicts: [[A>>B]] if answer A is much better, [[A>B]] if it is slightly better,
[[A=B]] if they are about the same, [[B>A]] if answer B is slightly better, [[B>>A]] if it is much better."""
    + PAIR
)
_BRACKETS = re.compile(r"\[\[\s*([AB])\s*(>>|>|=|<|<<)\s*([AB])\s*\]\]")


def read(text: str) -> Verdict:
    """Returns the verdict in double brackets, however sure; with two different ones it is unread."""
    return only({_verdict(*label) for label in _BRACKETS.findall(text)})


def _verdict(one: str, sign: str, other: str) -> Verdict:
    if one == other:
        return "unread"
    if sign == "=":
        return "tie"
    return "first" if (one == "A") == (">" in sign) else "second"
