"""Questions to people and their verdicts in an SQLite file, one transaction per verdict."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preference_duel.types import Unanswered, messages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Choice = Literal["left", "right", "tie"]
CHOICES: tuple[Choice, ...] = "left", "right", "tie"
SHARES = {"first": 1.0, "second": 0.0, "tie": 0.5}
_FORMAT = "preference-duel verdicts, version 1"
SYNCHRONOUS = "full"
"""SQLite's setting by which a verdict is on the disk before its page is answered."""
_POLL = 0.1
"""Seconds between looks at what may end the waiting."""
_TABLES = """
create table about (name text primary key, value text not null);
create table questions (
    number integer primary key, digest text not null unique, messages text not null, first text not null,
    second text not null
);
create table verdicts (
    number integer primary key autoincrement, question integer not null references questions (number),
    person text not null, winner text not null check (winner in ('first', 'second', 'tie')),
    shown_left text not null check (shown_left in ('first', 'second')), time text not null, unique (question, person)
);
create table reservations (person text primary key, question integer not null, seen real not null);
"""


@dataclass(frozen=True)
class Shown:
    """A question as one person sees it.

    Attributes:
        number: of the question.
        messages: the prompt, dicts with "role" and "content".
        left: one response.
        right: the other one.
    """

    number: int
    messages: list[dict[str, str]]
    left: str
    right: str


@dataclass(frozen=True)
class Progress:
    """The verdicts on the questions that are open together.

    Attributes:
        given: verdicts so far.
        total: verdicts that are needed.
        own: those of one person.
    """

    given: int
    total: int
    own: int


@dataclass(frozen=True)
class Verdict:
    """One verdict with its question, as it was shown.

    Attributes:
        messages: the prompt, dicts with "role" and "content".
        left: the response that stood on the left.
        right: the other one.
        winner: the side that won, or "tie".
        person: the name given at the door.
        time: ISO 8601, with the time zone.
    """

    messages: list[dict[str, str]]
    left: str
    right: str
    winner: Choice
    person: str
    time: str


class VerdictStore:
    """Hands out open questions to people and keeps their verdicts; safe to use from several threads.

    Args:
        path: the file, made if it is not there. It is locked against other processes until `close`.
        people: persons that judge each question, at least 1.
        patience: seconds without a sign of a person's page after which the question is free for others.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it can't be opened or another process holds it.
    """

    def __init__(self, path: Path, people: int = 1, patience: float = 30.0) -> None:
        self.path, self.people, self.patience = path, people, patience
        self._changed = threading.Condition(threading.RLock())
        self._last_change = -float("inf")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path)
        try:
            self._base = sqlite3.connect(path, check_same_thread=False)
            self._prepare()
        except (ValueError, sqlite3.Error) as error:
            os.close(self._lock)
            if isinstance(error, sqlite3.DatabaseError):
                raise ValueError(f"{path} is no file of verdicts: {error}; choose another file") from error
            raise

    def claim(self, owner: str) -> None:
        """Ties a new file to what asks the questions.

        Raises:
            ValueError: if the file belongs to something else.
        """
        with self._transaction():
            self._base.execute("insert or ignore into about values ('owner', ?)", (owner,))
            before = self._one("select value from about where name = 'owner'")
        if before != owner:
            raise ValueError(f"{self.path} holds the verdicts of {before}, not of {owner}; choose another file")

    def ask(self, questions: Sequence[tuple[str, str, str]]) -> list[int]:
        """Opens questions together; those that were opened before are closed.

        Args:
            questions: (prompt, response, other response), in the order in which people get them; the order of the two
                responses makes no difference.

        Returns:
            The number of each question.
        """
        with self._transaction():
            self._base.execute("delete from batch")
            numbers = [self._number(*question) for question in questions]
            self._base.executemany("insert or ignore into batch (question) values (?)", ((one,) for one in numbers))
        return numbers

    def missing(self) -> int:
        """Returns how many verdicts the open questions still need."""
        query = "select coalesce(sum(max(0, ? - (select count(*) from verdicts v where v.question = b.question))), 0)"
        with self._changed:
            return int(self._one(f"{query} from batch b", self.people))

    def wait(
        self,
        grace: float = 0.0,
        stopped: Callable[[], bool] = lambda: False,
        report: Callable[[int], None] = lambda missing: None,
    ) -> None:
        """Returns once all open questions have their verdicts, and closes them.

        Args:
            grace: seconds after the last verdict in which it may still be undone.
            stopped: asked often whether to wait no longer.
            report: is told how many verdicts are missing.

        Raises:
            Unanswered: if it was stopped; the verdicts are kept.
        """
        with self._changed:
            while (missing := self.missing()) or time.monotonic() < self._last_change + grace:
                if stopped() and not missing:
                    break
                if stopped():
                    raise Unanswered(f"people have yet to give {missing} verdicts; {self.path} keeps the others")
                report(missing)
                self._changed.wait(_POLL)
            with self._transaction():
                self._base.execute("delete from batch")

    def share(self, question: int, first: str) -> float:
        """Returns the share of the verdicts on a question in favour of a response, a tie counting half."""
        with self._changed:
            winners = self._base.execute("select winner from verdicts where question = ?", (question,)).fetchall()
            stored = self._one("select first from questions where number = ?", question)
        share = sum(SHARES[winner] for (winner,) in winners) / len(winners)
        return share if first == stored else 1 - share

    def question(self, person: str) -> Shown | None:
        """Reserves an open question for a person, the same one until it is answered; None if there is none."""
        with self._transaction():
            number = self._reserved(person) or self._free(person)
            if number is None:
                return None
            self._reserve(person, number)
            messages, *texts = self._base.execute(
                "select messages, first, second from questions where number = ?", (number,)
            ).fetchone()
        left = self._left(number, person)
        return Shown(number, json.loads(messages), texts[left == "second"], texts[left == "first"])

    def answer(self, person: str, question: int, choice: Choice) -> bool:
        """Keeps a verdict; False if the question has all its verdicts, or is reserved for others meanwhile.

        A second verdict of the same person on a question changes nothing, so that a page may send one again.
        """
        with self._transaction():
            if self._one("select count(*) from verdicts where question = ? and person = ?", question, person):
                return True
            if not self._one("select count(*) from questions where number = ?", question):
                return False
            if self._taken(question, person) >= self.people:
                return False
            left = self._left(question, person)
            winner = "tie" if choice == "tie" else left if choice == "left" else _other(left)
            row = question, person, winner, left, datetime.now().astimezone().isoformat(timespec="milliseconds")
            self._base.execute(
                "insert into verdicts (question, person, winner, shown_left, time) values (?, ?, ?, ?, ?)", row
            )
            self._base.execute("delete from reservations where person = ?", (person,))
        self._note_change()
        return True

    def undo(self, person: str) -> bool:
        """Takes back a person's last verdict on an open question, which is reserved again; False if there is none."""
        with self._transaction():
            last = self._base.execute(
                "select number, question from verdicts where person = ? and question in (select question from batch) "
                "order by number desc limit 1",
                (person,),
            ).fetchone()
            if last is None:
                return False
            self._base.execute("delete from verdicts where number = ?", last[:1])
            self._reserve(person, last[1])
        self._note_change()
        return True

    def progress(self, person: str = "") -> Progress:
        """Returns how far the open questions are."""
        open_verdicts = "select count(*) from verdicts where question in (select question from batch)"
        with self._changed:
            total = self.people * self._one("select count(*) from batch")
            own = self._one(f"{open_verdicts} and person = ?", person)
            return Progress(total - self.missing(), total, own)

    def given(self) -> int:
        """Returns the number of all verdicts."""
        with self._changed:
            return self._one("select count(*) from verdicts")

    def verdicts(self) -> list[Verdict]:
        """Returns all verdicts in the order in which they were given."""
        with self._changed:
            rows = self._base.execute(
                "select messages, first, second, winner, shown_left, person, time from verdicts v "
                "join questions q on v.question = q.number order by v.number"
            ).fetchall()
        return [_verdict(*row) for row in rows]

    def close(self) -> None:
        """Closes the file."""
        with self._changed:
            self._base.close()
            os.close(self._lock)

    def _prepare(self) -> None:
        self._base.execute(f"pragma synchronous = {SYNCHRONOUS}")
        with self._changed, self._base:
            tables = {name for (name,) in self._base.execute("select name from sqlite_master where type = 'table'")}
            if not tables:
                for statement in _TABLES.split(";"):
                    self._base.execute(statement)
                self._base.execute("insert into about values ('format', ?)", (_FORMAT,))
            elif "about" not in tables or self._one("select value from about where name = 'format'") != _FORMAT:
                raise ValueError(f"{self.path} holds other tables than '{_FORMAT}'; choose another file")
            self._base.execute("create temp table batch (place integer primary key, question integer not null unique)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._changed, self._base:
            yield

    def _one(self, query: str, *values: Any) -> Any:
        row = self._base.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _number(self, prompt: str, response: str, other: str) -> int:
        """Returns the number of a question, which is written if it is new."""
        first, second = sorted((response, other))
        messages = json.dumps(messages_of(prompt), ensure_ascii=False)
        digest = hashlib.sha256("\x1f".join([messages, first, second]).encode()).hexdigest()
        row = digest, messages, first, second
        self._base.execute("insert or ignore into questions (digest, messages, first, second) values (?, ?, ?, ?)", row)
        return self._one("select number from questions where digest = ?", digest)

    def _left(self, number: int, person: str) -> str:
        """Returns which response stands on the left: a fair coin for each question and person, the same every time."""
        digest = self._one("select digest from questions where number = ?", number)
        return ("first", "second")[hashlib.sha256(f"{digest}{person}".encode()).digest()[0] & 1]

    def _taken(self, question: int, person: str) -> int:
        """Returns the verdicts on a question and the reservations of other persons."""
        given = self._one("select count(*) from verdicts where question = ?", question)
        query = "select count(*) from reservations where question = ? and person <> ? and seen > ?"
        return given + self._one(query, question, person, time.time() - self.patience)

    def _reserved(self, person: str) -> int | None:
        """Returns the open question that a person has before them, if it is not taken by others meanwhile."""
        query = "select question from reservations where person = ? and question in (select question from batch)"
        number = self._one(query, person)
        free = number is not None and self._taken(number, person) < self.people
        return number if free else None

    def _free(self, person: str) -> int | None:
        """Returns the first open question that a person may be given."""
        query = (
            "select question from batch b where not exists (select 1 from verdicts where question = b.question and "
            "person = ?) and (select count(*) from verdicts where question = b.question) + (select count(*) from "
            "reservations where question = b.question and person <> ? and seen > ?) < ? order by place limit 1"
        )
        return self._one(query, person, person, time.time() - self.patience, self.people)

    def _reserve(self, person: str, number: int) -> None:
        self._base.execute("insert or replace into reservations values (?, ?, ?)", (person, number, time.time()))

    def _note_change(self) -> None:
        with self._changed:
            self._last_change = time.monotonic()
            self._changed.notify_all()


def _locked(path: Path) -> int:
    """Returns a descriptor of the file that no other process holds; the system frees it when this one ends."""
    if path.is_dir():
        raise ValueError(f"{path} is a directory; verdicts are kept in a file")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"{path} is in use by another process; wait for its end, or stop it") from error
    return descriptor


def _other(response: str) -> str:
    return "second" if response == "first" else "first"


def _verdict(messages: str, first: str, second: str, winner: str, left: str, person: str, given: str) -> Verdict:
    sides = (first, second) if left == "first" else (second, first)
    side: Choice = "tie" if winner == "tie" else "left" if winner == left else "right"
    return Verdict(json.loads(messages), *sides, side, person, given)
