"""Batches of like length for a network, and a cache of its answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Budget:
    """The size of one forward pass, padding included."""

    tokens: int
    """Most ids, >= 1."""
    squares: int
    """Most ids times length, >= 1: attention is dense."""

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yields the indices of `lengths`, shortest first, as many as fit and at least one."""
        rows: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            tokens = (len(rows) + 1) * lengths[i]
            if rows and (tokens > self.tokens or tokens * lengths[i] > self.squares):
                yield rows
                rows = []
            rows.append(i)
        if rows:
            yield rows


class Memory(Generic[Question, Answer]):
    """Answers each different question once, as long as it has room.

    Args:
        size: most answers to keep; the least recently used are dropped first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._answers: OrderedDict[Question, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def forget(self) -> None:
        """Drops every answer."""
        self._answers.clear()

    def answers(
        self, questions: Sequence[Question], read: Callable[[Sequence[Question]], Sequence[Answer]]
    ) -> list[Answer]:
        """Returns one answer for each question.

        Args:
            questions: N questions, repeated ones included.
            read: answers those that are new, each once.
        """
        known = {question: self._answers[question] for question in questions if question in self._answers}
        new = [question for question in dict.fromkeys(questions) if question not in known]
        known.update(zip(new, read(new) if new else (), strict=True))
        for question, answer in known.items():
            self._answers[question] = answer
            self._answers.move_to_end(question)
        while len(self._answers) > self.size:
            self._answers.popitem(last=False)
        return [known[question] for question in questions]
