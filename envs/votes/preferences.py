"""Pairs of texts to learn from, and prompts, read from files of preferences."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from envs.votes.formats import Format, Record
from envs.votes.options import ReadOptions
from envs.votes.records import asked, margin, outcome, texts
from envs.votes.rows import Reading, Rows, flat, warn_of_skipped


@dataclass(frozen=True)
class Preference:
    """One comparison that was made.

    Attributes:
        prompt: what was asked.
        first: one response.
        second: the other one.
        outcome: 1 where the first won, 0 where the second did; a share where several people were asked.
        place: "FILE:LINE", for messages; two preferences of different places can be equal.
        margin: how much better the preferred one is, see `envs.votes.records.margin`; None: the file does not say, or
            was not asked.
    """

    prompt: str
    first: str
    second: str
    outcome: float
    place: str = field(default="", compare=False)
    margin: float | None = field(default=None, compare=False)

    @property
    def texts(self) -> tuple[str, str]:
        """The responses."""
        return self.first, self.second

    def cut(self, shortened: Callable[[str], str]) -> Preference:
        """Returns the comparison with its responses shortened."""
        return replace(self, first=shortened(self.first), second=shortened(self.second))


def read_preferences(path: str, options: ReadOptions | None = None) -> list[Preference]:
    """Returns the pairs of responses of a file, and warns of rows that were left out.

    `load_preferences` returns the report instead.
    """
    preferences, reading = load_preferences(path, options)
    warn_of_skipped(reading)
    return preferences


def load_preferences(
    path: str, options: ReadOptions | None = None, margins: bool = False
) -> tuple[list[Preference], Reading]:
    """Reads pairs of responses, to learn from.

    Args:
        path: a file of records, a directory of them, or "hf:ID" (`envs.votes.containers`), in a format of
            `envs.votes.formats`.
        options: how it is read; None: by its fields.
        margins: whether margins are read, too; a row whose `margin` is none can't be used then.

    Returns:
        The preferences, and a report of the rows. Multi-turn prompts are `Conversation`s.

    Raises:
        ValueError: with the place that is wrong; if more than a tenth of the rows can't be used; or if the rows do
            not say who won.
        OSError: if the file cannot be read.
    """
    rows = Rows(path, options or ReadOptions(), "preferences")
    preferences: list[Preference] = []
    seated = False
    for part in rows.parts():
        for place, one, record in part:
            new = rows.tried(place, _preferences, record, one, rows.options.soft, place, margins)
            preferences += [pair for pair in new or () if rows.differ(place, pair.first, pair.second)]
            seated |= one.winner is not None and not one.ranked
    seen = {(str(one.prompt), frozenset((one.first, one.second))) for one in preferences}
    reading = rows.finished(len(preferences), len(preferences) - len(seen))
    require_verdicts(path, [one.outcome for one in preferences], seated)
    return preferences, reading


def _preferences(record: Record, one: Format, soft: bool, place: str, margins: bool) -> list[Preference]:
    return [
        Preference(*texts(row, one), outcome(row, one, soft), place, margin(row, one) if margins else None)
        for row in flat(record, one)
    ]


def require_verdicts(path: str, outcomes: Collection[float], seated: bool) -> None:
    """Raises ValueError if a file's outcomes say of no response that it was preferred.

    Args:
        path: of the file.
        outcomes: of its comparisons.
        seated: whether its rows name seats, not who won.
    """
    distinct = set(outcomes)
    if distinct == {0.5}:
        raise ValueError(f"{path}: every outcome is 1/2, so that nothing says who was preferred")
    if len(outcomes) > 1 and len(distinct) == 1 and seated:
        raise ValueError(
            f"{path}: all {len(outcomes)} outcomes are {distinct.pop():g}, which says nothing about the "
            f"responses; if the first one was always preferred, name the fields chosen and rejected"
        )


def load_prompts(path: str, options: ReadOptions | None = None) -> tuple[list[tuple[str, str, object]], Reading]:
    """Reads the prompts of a file of preferences, of thumbs, or of prompts.

    Returns:
        (place, prompt, the field split or None) of each row, and a report of the rows.

    Raises:
        ValueError: as `load_preferences`.
        OSError: if the file cannot be read.
    """
    rows = Rows(path, options or ReadOptions(), "prompts")
    prompts: list[tuple[str, str, object]] = []
    for part in rows.parts():
        for place, one, record in part:
            prompt = rows.tried(place, _asked, record, one)
            prompts += [] if prompt is None else [(place, prompt, record.get("split"))]
    return prompts, rows.finished(len(prompts), None)


def _asked(record: Record, one: Format) -> str:
    return asked(next(iter(flat(record, one))), one)
