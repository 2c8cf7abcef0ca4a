"""A table of votes: which two items were compared, which was shown first, and which won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VoteTable:
    """M verdicts over n items, in columns.

    Attributes:
        items: the n names.
        first: [M] index of the item that was shown first (left, or named first where the file does not say).
        second: [M] index of the other one, never the same.
        outcome: [M] 1 if the first won, 0 if the second did, 1/2 for a tie; a share where several voted at once.
        annotators: [M] index of who voted; None where the file does not say.
        prompts: [M] index of the prompt; None where the file does not say.
        seated: whether `first` is the order of presentation, so that an order effect can be measured.
        labels: [M] index of the label of each verdict, such as helpful or harmless; None if none were asked for.
    """

    items: Sequence[str]
    first: Indices
    second: Indices
    outcome: Matrix
    annotators: Indices | None = None
    prompts: Indices | None = None
    seated: bool = True
    labels: Indices | None = None

    def __post_init__(self) -> None:
        """Checks shapes and ranges.

        Raises:
            ValueError: if columns differ in length, an index names no item, an item meets itself or an outcome lies
                outside of [0, 1].
        """
        columns = self.first, self.second, self.outcome, self.annotators, self.prompts, self.labels
        sizes = {len(column) for column in columns if column is not None}
        if len(sizes) != 1:
            raise ValueError(f"the columns of a vote table must have one length, got {sorted(sizes)}")
        if len(set(self.items)) != len(self.items):
            raise ValueError("the items of a vote table must have different names")
        both = np.concatenate([self.first, self.second])
        if len(both) and not (both.min() >= 0 and both.max() < len(self.items)):
            raise ValueError(f"first and second must lie in 0..{len(self.items) - 1}, got {both.min()}..{both.max()}")
        if (same := np.flatnonzero(self.first == self.second)).size:
            raise ValueError(f"row {same[0]} compares '{self.items[int(self.first[same[0]])]}' with itself")
        if not ((self.outcome >= 0) & (self.outcome <= 1)).all():
            raise ValueError("outcomes must lie in [0, 1]: 1 if the first won, 0 if the second did, 1/2 for a tie")

    def __len__(self) -> int:
        """Returns M, the number of verdicts."""
        return len(self.first)

    def chosen(self, rows: NDArray[np.bool_]) -> VoteTable:
        """Returns the table of some of the verdicts [M], with those of the items that they compare."""
        count = int(rows.sum())
        kept, index = np.unique(np.concatenate([self.first[rows], self.second[rows]]), return_inverse=True)
        annotators, prompts = (None if c is None else c[rows] for c in (self.annotators, self.prompts))
        items = [self.items[int(i)] for i in kept]
        outcome = self.outcome[rows]
        return VoteTable(items, index[:count], index[count:], outcome, annotators, prompts, self.seated)

    def tally(self, rows: Indices | None = None) -> tuple[Matrix, Matrix]:
        """Counts verdicts by pair.

        Args:
            rows: indices of the rows to count, repeated as often as wished; None: each once.

        Returns:
            [n, n] verdicts that the row won against the column, a share counted in parts, and [n, n] ties (outcomes
            of exactly 1/2), symmetric. wins + wins.T + ties is the number of verdicts of a pair.
        """
        first, second, outcome = self.first, self.second, self.outcome
        if rows is not None:
            first, second, outcome = first[rows], second[rows], outcome[rows]
        count, tie = len(self.items), outcome == 0.5
        won = np.bincount(first * count + second, np.where(tie, 0.0, outcome), count * count)
        lost = np.bincount(second * count + first, np.where(tie, 0.0, 1 - outcome), count * count)
        ties = np.bincount(first * count + second, tie.astype(np.float64), count * count).reshape(count, count)
        return np.add(won, lost, dtype=np.float64).reshape(count, count), np.add(ties, ties.T, dtype=np.float64)

    @classmethod
    def from_columns(
        cls,
        first: Sequence[Any],
        second: Sequence[Any],
        outcome: Sequence[float],
        *,
        annotators: Sequence[Any] | None = None,
        prompts: Sequence[Any] | None = None,
        seated: bool = True,
    ) -> VoteTable:
        """Builds a table from columns of names, as a DataFrame has them; items are sorted by name.

        Args:
            first: [M] names of the items shown first.
            second: [M] names of the others.
            outcome: [M] 1 if the first won, 0 if the second did, 1/2 for a tie.
            annotators: [M] names of any kind.
            prompts: [M] names of any kind.
            seated: see `VoteTable`.

        Raises:
            ValueError: if columns differ in length, or an outcome is out of range.
        """
        if len(first) != len(second):
            raise ValueError(f"first and second must have one length, got {len(first)} and {len(second)}")
        items, index = _indices([*first, *second])
        return cls(
            items,
            index[: len(first)],
            index[len(first) :],
            np.asarray(outcome, dtype=np.float64),
            None if annotators is None else _indices(annotators)[1],
            None if prompts is None else _indices(prompts)[1],
            seated,
        )


def _indices(names: Sequence[Any]) -> tuple[list[str], Indices]:
    """Returns the sorted names, and the index of each."""
    distinct, index = np.unique(np.array([str(name) for name in names], dtype=object), return_inverse=True)
    return distinct.tolist(), np.asarray(index, dtype=np.int64)
