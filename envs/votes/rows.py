"""Rows of preference files with their formats, and the report of what was read and what was left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.votes.containers import Batch, Broken, read_batches
from envs.votes.formats import Format, Record, detect, given_fields, named
from envs.votes.mapping import mapped, parse_fields
from envs.votes.options import ReadOptions
from envs.votes.records import NoVerdictError
from preference_duel.json_text import short

EXAMPLES = {"thumbs": ("prompt", "response", "label"), "demonstrations": ("prompt", "response")}
"""Fields that a record must have, by what is read; of all else prompt, chosen and rejected."""
UNUSABLE = 0.1
"""Share of a file's rows that may be skipped."""
PLACES = 3
REASON = re.compile(r", got |; did you mean | It has ")
"""Start of the part of a message that is about one row."""
SAME = "both responses are the same"


@dataclass(frozen=True)
class Skipped:
    """Rows that were left out for one reason: how many, and where the first three are."""

    count: int
    places: tuple[str, ...]

    def plus(self, places: Sequence[str], count: int) -> Skipped:
        """Returns these and more."""
        return Skipped(self.count + count, (*self.places, *places)[:PLACES])


@dataclass
class Reading:
    """Counts of the rows of a file that were read, skipped and cut.

    Attributes:
        path: the file.
        kind: what is counted: preferences, lists, thumbs, demonstrations, votes, prompts.
        formats: the formats of its rows.
        rows: rows read.
        used: how many preferences, lists, thumbs, demonstrations, votes or prompts came of them.
        unusable: rows that are wrong, by reason.
        passed: rows that are right and say nothing (both responses equal, conversations of two ways), by reason.
        shortened: rows whose responses were cut, by reason.
        duplicates: comparisons of the same prompt and the same two responses or items (in either order; of votes, by
            the same annotator) beyond the first; None where the file names no prompts.
        prompts: the prompts' names, in the order of a table's indices.
        annotators: the annotators' names.
        labels: the labels' names, where they were asked for.
    """

    path: str
    kind: str
    formats: list[str] = field(default_factory=list)
    rows: int = 0
    used: int = 0
    unusable: dict[str, Skipped] = field(default_factory=dict)
    passed: dict[str, Skipped] = field(default_factory=dict)
    shortened: dict[str, Skipped] = field(default_factory=dict)
    duplicates: int | None = None
    prompts: list[str] = field(default_factory=list)
    annotators: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """The number of wrong rows."""
        return sum(one.count for one in self.unusable.values())

    def __str__(self) -> str:
        """Returns the report in a line, and one more for each reason to leave rows out."""
        again = f", {self.duplicates:,} of them of a pair that came before" if self.duplicates else ""
        lines = [f"{self.path}: {self.rows:,} rows ({', '.join(self.formats)}), {self.used:,} {self.kind}{again}"]
        left_out = ("skipped", self.unusable), ("passed over", self.passed), ("cut", self.shortened)
        for what, reasons in left_out:
            for reason, one in reasons.items():
                places = ", ".join(one.places) + (", ..." if one.count > len(one.places) else "")
                lines.append(f"  {what} {one.count:,}: {reason} ({places})")
        return "\n".join(lines)


def warn_of_skipped(reading: Reading) -> None:
    """Warns, on behalf of the caller's caller, if rows were left out that are wrong."""
    if reading.unusable:
        warnings.warn(str(reading), stacklevel=3)


def flat(record: Record, one: Format) -> list[Record]:
    """Returns the records of a format's fields that a record of the file stands for; most often itself."""
    return [record] if one.rows is None else list(one.rows(record))


class Rows:
    """Rows of a file with their formats; counts those that can't be used."""

    def __init__(self, path: str, options: ReadOptions, kind: str) -> None:
        self.options, self.kind = options, kind
        self.reading = Reading(path, kind)
        self.first: Format | None = None
        self._known: dict[tuple[str, ...], Format] = {}
        self._error = ""

    @property
    def _example(self) -> Sequence[str]:
        return EXAMPLES.get(self.kind, ("prompt", "chosen", "rejected"))

    def batches(self) -> Iterator[tuple[Batch, Format]]:
        """Yields batches with the format of the file, which the first records decide."""
        for batch in read_batches(self.reading.path, self.options.split):
            self.reading.rows += len(batch.records)
            if self.first is None:
                self._choose(batch)
            if self.first is not None:
                yield batch, self.first
            else:
                for i, record in enumerate(batch.records):
                    self.usable(batch.place(i), record)

    def _choose(self, batch: Batch) -> None:
        """Finds the format; none if the batch has no object."""
        start = [record for record in batch.records[:1000] if isinstance(record, Mapping)]
        if not start:
            return
        place = next(batch.place(i) for i, record in enumerate(batch.records) if isinstance(record, Mapping))
        pairs = self.kind != "prompts"
        try:
            one = self._format_for(start, pairs)
            if not self._fits(one):
                raise ValueError(_no_pairs(one))
            if self.kind in ("preferences", "lists") and one.first is None:
                raise ValueError(
                    f"format {one.name} ({', '.join(one.needs)}) names who won and holds no texts to learn from"
                )
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        self.first = one
        self.reading.formats.append(one.name)

    def _fits(self, one: Format) -> bool:
        if self.kind in EXAMPLES:
            return one.response is not None and (one.winner is None) == (self.kind == "demonstrations")
        return self.kind == "prompts" or one.holds_pairs

    def _format_for(self, records: Sequence[Record], pairs: bool) -> Format:
        given = given_fields(records)
        if self.options.fields is not None:
            merged = {name: next(r[name] for r in records if r.get(name) is not None) for name in given}
            return mapped(parse_fields(self.options.fields), merged, pairs)
        if self.options.format is not None:
            return named(self.options.format, given)
        try:
            return detect(given, pairs)
        except ValueError as error:
            try:
                return detect(given_fields(records[:1]), pairs)  # rows of several forms
            except ValueError:
                raise error from None

    def parts(self) -> Iterator[Iterator[tuple[str, Format, Record]]]:
        """Yields the usable records of every batch, each with its place and its own format."""
        for batch, one in self.batches():
            yield self._part(batch, one)

    def _part(self, batch: Batch, one: Format) -> Iterator[tuple[str, Format, Record]]:
        for i, record in enumerate(batch.records):
            place = batch.place(i)
            if self.usable(place, record):
                yield place, self._format_of(record, one), record

    def _format_of(self, record: Record, one: Format) -> Format:
        """Returns the file's format, or a row's own one where the row has not its fields."""
        if self.options.fields is not None or all(record.get(name) is not None for name in one.needs):
            return one
        given = tuple(given_fields([record]))
        if given not in self._known:
            try:
                own = detect(given, self.kind != "prompts")
            except ValueError:
                own = one
            self._known[given] = own if self._fits(own) else one
        own = self._known[given]
        if own.name not in self.reading.formats:
            self.reading.formats.append(own.name)
        return own

    def usable(self, place: str, record: Any) -> bool:
        """Returns whether a record is an object, and counts it otherwise."""
        if isinstance(record, Mapping):
            return True
        message = (
            record.message
            if isinstance(record, Broken)
            else f"must be an object with {', '.join(self._example[:-1])} and {self._example[-1]}, got {short(record)}"
        )
        self.skip(message, [place])
        return False

    def tried(self, place: str, read: Any, *arguments: Any) -> Any:
        """Returns what a function reads of a record; None if it can't, which is counted."""
        try:
            return read(*arguments)
        except NoVerdictError as error:
            self.passed_over(str(error), place)
        except ValueError as error:
            self.skip(str(error), [place])
        return None

    def differ(self, place: str, first: str, second: str) -> bool:
        """Returns whether two responses differ, and counts the row otherwise."""
        if first == second:
            self.passed_over(SAME, place)
        return first != second

    def skip(self, message: str, places: Sequence[str], count: int = 1) -> None:
        """Counts rows that can't be used.

        Raises:
            ValueError: if the reading is strict.
        """
        if self.options.strict:
            raise ValueError(f"{places[0]}: {message}")
        self._error = self._error or f"{places[0]}: {message}"
        reason, skipped = REASON.split(message)[0].rstrip("."), self.reading.unusable
        skipped[reason] = skipped.get(reason, Skipped(0, ())).plus(places, count)

    def passed_over(self, reason: str, place: str) -> None:
        """Counts a row that says nothing."""
        passed = self.reading.passed
        passed[reason] = passed.get(reason, Skipped(0, ())).plus([place], 1)

    def finished(self, used: int, duplicates: int | None) -> Reading:
        """Returns the report.

        Raises:
            ValueError: if more than a tenth of the rows can't be used, or nothing is left.
        """
        reading = self.reading
        reading.used, reading.duplicates = used, duplicates
        if reading.skipped > UNUSABLE * reading.rows:
            counts = "; ".join(f"{reason}: {one.count:,}" for reason, one in reading.unusable.items())
            many = f" - {reading.skipped:,} of {reading.rows:,} rows can't be used, more than a tenth: {counts}"
            raise ValueError(self._error + (many if reading.rows > 1 else ""))
        if not used:
            why = "; ".join(f"{reason} ({', '.join(one.places)})" for reason, one in reading.passed.items())
            example = ", ".join(f'"{name}": ...' for name in self._example)
            reason = f": {why}" if why else ""
            raise ValueError(f"{reading.path}: has no {self.kind}{reason}; write {{{example}}} a line")
        return reading


def _no_pairs(one: Format) -> str:
    if one.response is not None:
        if one.winner is None:
            return (
                f"rows are demonstrations ({', '.join(one.needs)}), which say of no pair who won; agents sft and spin "
                "learn from them by --run.data, and --task can take their prompts"
            )
        return (
            f"rows are thumbs ({', '.join(one.needs)}), each about one response, which say of no pair who won; agents "
            "of single responses (kto, dro) learn from them by --run.data, and --task can take their prompts"
        )
    return f"format {one.name} ({', '.join(one.needs)}) compares nothing"
