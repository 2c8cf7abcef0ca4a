"""Answers that end with [[A]], [[B]] or [[C]], a tie, as MT-bench's judges write them; [[D]] if both are bad."""

from __future__ import annotations

import re

from oracles.judging.question import PAIR
from oracles.judging.verdicts import Verdict, only

TEMPLATE = (
    """Two assistants answered the same request. Explain briefly which answer is better, whatever their order and
length. Then end with your verdict: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally
good, [[D]] if both are bad."""
    + PAIR
)
_LABELS: dict[str, Verdict] = {"A": "first", "B": "second", "C": "tie", "D": "both_bad"}
_BRACKETS = re.compile(r"\[\[\s*([ABCD])\s*\]\]")


def read(text: str) -> Verdict:
    """Returns the verdict in double brackets; with two different ones it is unread."""
    return only({_LABELS[label] for label in _BRACKETS.findall(text)})
