"""Verdicts on single responses, and demonstrations, to learn from, read from files."""

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
    """Returns whether the rows of a file are verdicts on single responses; False if it is of no known format.

    Raises:
        OSError: if the file cannot be read.
    """
    one = _format(path, options)
    return one is not None and one.response is not None and one.winner is not None


def holds_demonstrations(path: str, options: ReadOptions | None = None) -> bool:
    """Returns whether the rows of a file are responses without a verdict; False if it is of no known format.

    Raises:
        OSError: if the file cannot be read.
    """
    one = _format(path, options)
    return one is not None and one.response is not None and one.winner is None


def _format(path: str, options: ReadOptions | None) -> Format | None:
    try:
        first = next(iter(Rows(path, options or ReadOptions(), "prompts").batches()), None)
    except ValueError:
        return None
    return None if first is None else first[1]


def load_demonstrations(path: str, options: ReadOptions | None = None) -> tuple[list[Thumb], Reading]:
    """Reads responses to imitate, each a thumb whose label is 1.

    Args:
        path: as for `load_thumbs`, in the format demonstrations or completions.
        options: how it is read; None: by its fields.

    Returns:
        The demonstrations, and a report of the rows.

    Raises:
        ValueError: with the place that is wrong; or if more than a tenth of the rows can't be used.
        OSError: if the file cannot be read.
    """
    return _load(path, options, "demonstrations")


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
    thumbs, reading = _load(path, options, "thumbs")
    labels = {one.label for one in thumbs}
    if len(labels) == 1 and not labels <= set(alone):
        raise ValueError(
            f"{path}: all {len(thumbs)} labels are {thumbs[0].label:g}, so that no response is better than another; "
            f"give both kinds{''.join(f', or {label:g} alone' for label in alone)}"
        )
    return thumbs, reading


def _load(path: str, options: ReadOptions | None, kind: str) -> tuple[list[Thumb], Reading]:
    rows = Rows(path, options or ReadOptions(), kind)
    thumbs: list[Thumb] = []
    for part in rows.parts():
        for place, one, record in part:
            thumbs += rows.tried(place, _thumbs, record, one, place) or ()
    return thumbs, rows.finished(len(thumbs), None)


def _thumbs(record: Record, one: Format, place: str) -> list[Thumb]:
    return [Thumb(*thumb(row, one), outcome(row, one), place) for row in flat(record, one)]
