"""Pairs whose answers can't be read: counted, logged, and dropped or the end of the run, but never scored."""

from __future__ import annotations

import logging
from typing import Literal

from preference_duel.types import Unanswered

_log = logging.getLogger(__name__)
Unread = Literal["drop", "stop"]
"""drop: the pair counts as not asked (its P is NaN). stop: the run stops."""
TRIED = 20
"""Pairs after which a judge that leaves more than half of them unread is no judge."""


class UnreadPairs:
    """Counts the pairs that a judge left unread.

    Attributes:
        count: pairs so far of which an answer could not be read.
        asked: all pairs so far.

    Args:
        judge: its name, for messages.
        unread: what an unread pair leads to.
        advice: what to do about them.
    """

    def __init__(self, judge: str, unread: Unread, advice: str) -> None:
        self.judge, self.unread, self.advice = judge, unread, advice
        self.count = self.asked = 0

    def add(self, asked: int, unread: int) -> None:
        """Counts pairs.

        Raises:
            Unanswered: if one is unread and such pairs stop the run.
            ValueError: if more than half of `TRIED` or more are.
        """
        first = unread and not self.count
        self.asked += asked
        self.count += unread
        if unread and self.unread == "stop":
            raise Unanswered(f"{self.judge} left {unread} of {asked} pairs unread, and unread='stop': {self.advice}")
        if self.asked >= TRIED and self.count > self.asked / 2:
            raise ValueError(f"{self.judge} left {self.count} of {self.asked} pairs unread: {self.advice}")
        if first:
            _log.warning("%s left a pair unread, which counts as not asked; their share is logged", self.judge)
