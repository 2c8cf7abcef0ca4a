"""Answers of judges in a file, which several processes may share."""

from __future__ import annotations

import contextlib
import hashlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from oracles.judging.verdicts import Reading, Verdict


class AnswerStore:
    """Keeps readings by question.

    Args:
        path: of the file.

    Raises:
        OSError, sqlite3.Error: if it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.execute("create table if not exists readings (question text primary key, verdict text, chance real)")

    def get(self, question: str) -> Reading | None:
        """Returns the reading of a question; None if there is none."""
        with self._open() as base:
            row = base.execute("select verdict, chance from readings where question = ?", (question,)).fetchone()
        return None if row is None else Reading(cast("Verdict", row[0]), math.nan if row[1] is None else row[1])

    def put(self, question: str, found: Reading) -> None:
        """Keeps a reading."""
        chance = None if math.isnan(found.chance) else found.chance
        with self._open() as base:
            base.execute("insert or replace into readings values (?, ?, ?)", (question, found.verdict, chance))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        base = sqlite3.connect(self._path, timeout=60)
        try:
            with base:
                yield base
        finally:
            base.close()


def question_name(*parts: str) -> str:
    """Returns a short name of all that an answer depends on."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
