"""Answers that give each response a score of 1 to 10: two numbers on the first line, or [[7, 8]], as in MT-bench."""

from __future__ import annotations

import re

from oracles.judging.question import PAIR
from oracles.judging.verdicts import Verdict, only

TEMPLATE = (
    """Two assistants answered the same request. Score each answer from 1 to 10, whatever their order and length.
Reply with one line of two numbers, the score of answer A and that of answer B, and explain them in the lines below \
it."""
    + PAIR
)
LOWEST, HIGHEST = 1, 10
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LINE = re.compile(rf"\W*?{_NUMBER}\s*[\s,;/]\s*{_NUMBER}\W*")
_BRACKETS = re.compile(rf"\[\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]\]")


def read(text: str) -> Verdict:
    """Returns the verdict of the higher score; scores out of range, or two different pairs, are unread."""
    line = _LINE.fullmatch(text.strip().partition("\n")[0])
    pairs = _BRACKETS.findall(text) or ([] if line is None else [line.groups()])
    return only({_verdict(float(one), float(other)) for one, other in pairs})


def _verdict(first: float, second: float) -> Verdict:
    if not all(LOWEST <= score <= HIGHEST for score in (first, second)):
        return "unread"
    return "first" if first > second else "second" if first < second else "tie"
