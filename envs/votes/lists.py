"""Lists of responses to learn from, read from files of rankings, of scores or of comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations

from envs.votes.formats import Format, Record
from envs.votes.options import ReadOptions
from envs.votes.preferences import require_verdicts
from envs.votes.records import outcome, texts
from envs.votes.rows import SAME, Reading, Rows, flat


@dataclass(frozen=True)
class ResponseList:
    """Responses to one prompt that were ranked or scored together.

    Attributes:
        prompt: what was asked.
        responses: K >= 2 responses.
        prob: (i, j) -> P(response i beats response j), i < j: sigma of the difference of scores, 1 or 0 of ranks, the
            outcome of a comparison.
        place: "FILE:LINE", for messages; two lists of different places can be equal.
    """

    prompt: str
    responses: tuple[str, ...]
    prob: dict[tuple[int, int], float]
    place: str = field(default="", compare=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """The responses."""
        return self.responses

    def cut(self, shortened: Callable[[str], str]) -> ResponseList:
        """Returns the list with its responses shortened."""
        return replace(self, responses=tuple(map(shortened, self.responses)))


def load_lists(path: str, options: ReadOptions | None = None) -> tuple[list[ResponseList], Reading]:
    """Reads lists of responses, to learn from; a comparison is a list of two.

    Args:
        path: as for `load_preferences`, in any format that holds texts and says who won.
        options: how it is read; None: by its fields.

    Returns:
        The lists, and a report of the rows.

    Raises:
        ValueError: as `load_preferences`.
        OSError: if the file cannot be read.
    """
    rows = Rows(path, options or ReadOptions(), "lists")
    lists: list[ResponseList] = []
    seated = False
    for part in rows.parts():
        for place, one, record in part:
            new = rows.tried(place, _list, record, one, rows.options.soft, place)
            if new is not None and len(set(new.responses)) == 1:
                rows.passed_over(SAME, place)
            elif new is not None:
                lists.append(new)
            seated |= one.winner is not None and not one.ranked
    seen = {(str(one.prompt), frozenset(one.responses)) for one in lists}
    reading = rows.finished(len(lists), len(lists) - len(seen))
    require_verdicts(path, [prob for one in lists for prob in one.prob.values()], seated)
    return lists, reading


def _list(record: Record, one: Format, soft: bool, place: str) -> ResponseList:
    """Returns the list of a row, whose pairs come in the order of `combinations`."""
    pairs = flat(record, one)
    count = (1 + math.isqrt(1 + 8 * len(pairs))) // 2
    read = [texts(pair, one) for pair in pairs[: count - 1]]  # the first response with each other one
    prompt, first, _ = read[0]
    shares = [pair["share"] if "share" in pair else outcome(pair, one, soft) for pair in pairs]
    prob = dict(zip(combinations(range(count), 2), shares, strict=True))
    return ResponseList(prompt, (first, *(second for _, _, second in read)), prob, place)
