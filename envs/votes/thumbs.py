"""Verdicts on single responses, to learn from, read from files."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from envs.votes.formats import Format, Record
from envs.votes.options import ReadOptions
from envs.votes.records import outcome, thumb
from envs.votes.rows import Reading, Rows, flat


@dataclass(frozen=True)
class Thumb:
    """One verdict on one response: a comparison whose other response is not known.

    Attributes:
        prompt: what was asked.
        response: the answer.
        label: 1 if it was liked, 0 if it was disliked; a share if several people were asked.
        place: "FILE:LINE", for messages; two thumbs of different places can be equal.
    """

    prompt: str
    response: str
    label: float
    place: str = field(default="", compare=False)

    @property
    def texts(self) -> tuple[str]:
        """The response."""
        return (self.response,)

    def cut(self, shortened: Callable[[str], str]) -> Thumb:
        """Returns the thumb with its response shortened."""
        return replace(self, response=shortened(self.response))


def holds_thumbs(path: str, options: ReadOptions | None = None) -> bool:
    """Returns whether the rows of a file are about single responses; False if it is of no known format.

    Raises:
        OSError: if the file cannot be read.
    """
    try:
        first = next(iter(Rows(path, options or ReadOptions(), "prompts").batches()), None)
    except ValueError:
        return False
    return first is not None and first[1].response is not None


def load_thumbs(
    path: str, options: ReadOptions | None = None, alone: Collection[float] = ()
) -> tuple[list[Thumb], Reading]:
    """Reads verdicts on single responses, to learn from.

    Args:
        path: a file of records, a directory of them, or "hf:ID" (`envs.votes.containers`), in the format thumbs or kto
            of `envs.votes.formats`.
        options: how it is read; None: by its fields.
        alone: labels, 0 or 1, that will do without the other.

    Returns:
        The thumbs, and a report of the rows. Multi-turn prompts are `Conversation`s.

    Raises:
        ValueError: with the place that is wrong; if more than a tenth of the rows can't be used; or if all labels are
            the same.
        OSError: if the file cannot be read.
    """
    rows = Rows(path, options or ReadOptions(), "thumbs")
    thumbs: list[Thumb] = []
    for part in rows.parts():
        for place, one, record in part:
            thumbs += rows.tried(place, _thumbs, record, one, place) or ()
    reading = rows.finished(len(thumbs), None)
    labels = {one.label for one in thumbs}
    if len(labels) == 1 and not labels <= set(alone):
        raise ValueError(
            f"{path}: all {len(thumbs)} labels are {thumbs[0].label:g}, so that no response is better than another; "
            f"give both kinds{''.join(f', or {label:g} alone' for label in alone)}"
        )
    return thumbs, reading


def _thumbs(record: Record, one: Format, place: str) -> list[Thumb]:
    return [Thumb(*thumb(row, one), outcome(row, one), place) for row in flat(record, one)]
