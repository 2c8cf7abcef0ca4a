"""Tables of votes, read from files of preferences: names in whole columns, texts row by row."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.votes.containers import Batch
from envs.votes.formats import Format, Record, given_fields
from envs.votes.mapping import get
from envs.votes.options import ReadOptions
from envs.votes.records import texts
from envs.votes.rows import PLACES, Reading, Rows, flat, warn_of_skipped
from envs.votes.table import Indices, Matrix, VoteTable
from preference_duel.json_text import short
from preference_duel.names import nearest

SAMPLE = 1000
"""Records that decide which fields a file has."""
NOT_NAMED = "(not named)"
"""The annotator, prompt or label of rows that do not name theirs in a file that does."""


def read_votes(path: str, options: ReadOptions | None = None) -> VoteTable:
    """Returns the votes of a file, and warns of rows that were left out; `load_votes` returns the report instead."""
    table, reading = load_votes(path, options)
    warn_of_skipped(reading)
    return table


def load_votes(path: str, options: ReadOptions | None = None, label: str | None = None) -> tuple[VoteTable, Reading]:
    """Reads verdicts between items: models, policies, or responses where the file names nothing else.

    Args:
        path: as for `load_preferences`.
        options: how it is read; None: by its fields.
        label: field that labels a row's verdicts, such as helpful or harmless; "a.0.b" goes into objects and lists.

    Returns:
        The votes, and a report of the rows with the names of prompts, annotators and labels.

    Raises:
        ValueError: with the place that is wrong, if more than a tenth of the rows can't be used, or none has the label.
        OSError: if the file cannot be read.
    """
    rows = Rows(path, options or ReadOptions(), "votes")
    votes = _Votes(rows, label)
    with _no_collection():
        for batch, one in rows.batches():
            votes.add(batch, one)
    return votes.table()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses the search for reference cycles, which parsed records have none of: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Names:
    """Indices of names, in the order in which they come."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._codes: dict[Any, int] = {}

    def codes(self, values: Sequence[Any], default: str | None = None) -> Indices:
        """Returns [N] indices of names; of the default, -1 without one, where a value is none."""
        try:
            distinct = dict.fromkeys(values)
        except TypeError:
            values = [_hashable(v, named=default is not None) for v in values]
            distinct = dict.fromkeys(values)
        for value in distinct:
            if value not in self._codes:
                name = _name(value) or default
                self._codes[value] = -1 if name is None else self.names.setdefault(name, len(self.names))
        return np.fromiter(map(self._codes.__getitem__, values), np.int64, len(values))


def _hashable(value: Any, named: bool) -> Any:
    """Returns a list or an object as text where one may name something (a prompt), and as nothing elsewhere."""
    if not isinstance(value, (list, dict, tuple)):
        return value
    return json.dumps(value, sort_keys=True, default=str) if named else None


def _name(value: Any) -> str | None:
    """Returns a name's text; None if a value can't be one."""
    if isinstance(value, tuple):
        value = " ".join([str(part) for part in value if part is not None])
    if isinstance(value, (int, float)) and math.isfinite(value):
        value = str(int(value) if value == int(value) else value)
    if not isinstance(value, str) or not value.strip():
        return None
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


class _Votes:
    """Columns of votes, read batch by batch."""

    def __init__(self, rows: Rows, label: str | None) -> None:
        self._rows, self._label = rows, label
        self._items, self._annotators, self._prompts, self._labels = _Names(), _Names(), _Names(), _Names()
        self._outcomes: dict[Any, float] = {}
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._format: Format | None = None

    def _bind(self, batch: Batch, one: Format) -> None:
        """Chooses the columns by the fields that the first records have."""
        sample: list[Record] = []
        for record in batch.records[:SAMPLE]:
            try:
                sample += flat(record, one) if isinstance(record, Mapping) else []
            except ValueError:
                continue  # which is counted when the row is read
        fields = given_fields(sample)
        self._given = given_fields([record for record in batch.records[:SAMPLE] if isinstance(record, Mapping)])
        self._format = one
        pair = next((pair for pair in one.items if set(pair) <= set(fields)), None)
        self._named = pair is not None
        self._pair = pair or ("first_item", "second_item")
        prompts = one.prompts or (one.prompt,) if self._named else ("prompt",)
        self._prompt = [name for name in prompts if name in fields or not self._named]
        self._begins = one.first if one.prompt is None and one.first in fields else None
        self._annotator = next((name for name in one.annotators if name in fields), None)

    def add(self, batch: Batch, one: Format) -> None:
        """Reads a batch."""
        if self._format is None:
            self._bind(batch, one)
        if self._named and one.rows is None and all(map(_is_record, batch.records)):
            self._columns(batch.records, batch.place, one, batch.records)
        else:
            placed = [
                (place, row, record)
                for i, record in enumerate(batch.records)
                if self._rows.usable(place := batch.place(i), record)
                for row in self._rows.tried(place, flat, record, one) or ()
            ]
            if not self._named:
                found = ((place, self._of_texts(place, row, one), record) for place, row, record in placed)
                placed = [(place, row, record) for place, row, record in found if row]
            self._columns([row for _, row, _ in placed], lambda i: placed[i][0], one, [record for *_, record in placed])

    def _of_texts(self, place: str, record: Record, one: Format) -> Record | None:
        """Returns a row whose items are its responses; None if it can't be used, which is counted."""
        read = self._rows.tried(place, texts, record, one)
        if read is None or not self._rows.differ(place, read[1], read[2]):
            return None
        return {**record, "prompt": read[0], "first_item": read[1], "second_item": read[2]}

    def _columns(
        self, records: Sequence[Any], place: Callable[[int], str], one: Format, sources: Sequence[Any]
    ) -> None:
        """Reads records in the format's fields; `sources` are the file's records that they stand in."""
        (a, b), winner = self._pair, one.winner
        first, second = (self._items.codes([record.get(name) for record in records]) for name in (a, b))
        outcome = self._outcomes_of([record.get(winner) for record in records]) if winner else np.ones(len(records))
        good = np.ones(len(records), dtype=bool)
        wrong = {
            f"{a} must be a name": (first < 0, a),
            f"{b} must be a name": (second < 0, b),
            f"{a} and {b} must differ": (first == second, a),
            f"{winner} must be {one.rule.expected}": (np.isnan(outcome), winner or ""),
        }
        for reason, (mask, name) in wrong.items():
            rejected = np.flatnonzero(mask & good)
            good &= ~mask
            if rejected.size:
                places = [place(int(i)) for i in rejected[:PLACES]]
                self._rows.skip(f"{reason}, got {short(records[rejected[0]].get(name))}", places, rejected.size)
        part = {"first": first, "second": second, "outcome": outcome}
        if self._annotator is not None:
            part["annotators"] = self._annotators.codes([r.get(self._annotator) for r in records], NOT_NAMED)
        if self._prompt:
            named = [[record.get(name) for record in records] for name in self._prompt]
            values = named[0] if len(named) == 1 else list(zip(*named, strict=True))
            part["prompts"] = self._prompts.codes(values, NOT_NAMED)
        elif self._begins is not None:
            part["prompts"] = self._prompts.codes([_opening(r.get(self._begins)) for r in records], NOT_NAMED)
        if self._label is not None:
            part["labels"] = self._labels.codes([get(record, self._label) for record in sources], NOT_NAMED)
        self._parts.append({name: column[good] for name, column in part.items()})

    def _outcomes_of(self, values: Sequence[Any]) -> Matrix:
        try:
            distinct = dict.fromkeys(values)
        except TypeError:
            values = [None if isinstance(value, (list, dict)) else value for value in values]
            distinct = dict.fromkeys(values)
        assert self._format is not None
        rule = self._format.rule
        for value in distinct:
            if value not in self._outcomes:
                outcome = (rule.soft if self._rows.options.soft and rule.soft else rule.outcome)(value)
                self._outcomes[value] = math.nan if outcome is None else outcome
        return np.fromiter(map(self._outcomes.__getitem__, values), np.float64, len(values))

    def table(self) -> tuple[VoteTable, Reading]:
        """Returns all votes and the report."""
        names = self._parts[0] if self._parts else ("first", "second", "outcome")
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([part[name] for part in self._parts] or [np.empty(0)]) for name in names
        }
        annotators, prompts = columns.get("annotators"), columns.get("prompts")
        duplicates = None
        if prompts is not None:
            low, high = (f(columns["first"], columns["second"]) for f in (np.minimum, np.maximum))
            keys = [low, high, prompts] + ([] if annotators is None else [annotators])
            duplicates = len(prompts) - _distinct(keys)
        reading = self._rows.finished(len(columns["first"]), duplicates)
        reading.prompts, reading.annotators = list(self._prompts.names), list(self._annotators.names)
        reading.labels = list(self._labels.names)
        if reading.labels == [NOT_NAMED] and self._label is not None:
            hint = nearest(self._label, self._given) or "."
            raise ValueError(
                f"{reading.path}: no row has the label '{self._label}'{hint} It has {sorted(self._given)}."
            )
        assert self._format is not None
        table = VoteTable(
            list(self._items.names),
            columns["first"],
            columns["second"],
            columns["outcome"],
            annotators,
            prompts,
            self._format.seated,
            columns.get("labels"),
        )
        return table, reading


def _opening(conversation: Any) -> Any:
    """Returns the first message of a conversation, which names its prompt well enough."""
    return conversation[0] if isinstance(conversation, list) and conversation else None


def _is_record(record: Any) -> bool:
    return isinstance(record, dict)


def _distinct(columns: Sequence[Indices]) -> int:
    """Returns how many different rows there are."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        code = np.unique(code * (column.max(initial=0) + 2) + column, return_inverse=True)[1]
    return int(code.max(initial=-1)) + 1
