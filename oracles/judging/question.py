"""The questions of a judge: the text of a pair, and both orders of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from oracles.judging.verdicts import Reading

if TYPE_CHECKING:
    from torch import Tensor

    from oracles.judging.unread import UnreadPairs

PAIR = """

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}"""
"""The end of a question in one message: the request and the two answers."""
Question = tuple[str, str, str]
"""Prompt, response shown first, response shown second."""
Vote = tuple[Question, int | None]
"""A question with the random seed of its answer; None: without one."""


class Orders(NamedTuple):
    """The answers about pairs.

    Attributes:
        straight: [N] float64 P(first wins) if the first is shown first; NaN: unread.
        turned: [N] float64 P(second wins) if the second is shown first; NaN: unread.
        different: pairs of different texts, each counted once.
        unread: those of them of which an order is unread.
        verdicts: how many answers said what.
    """

    straight: Tensor
    turned: Tensor
    different: int
    unread: int
    verdicts: Counter[str]


def both_orders(
    pairs: Sequence[Question], seeds: Sequence[int | None], ask: Callable[[Sequence[Vote]], Sequence[Reading]]
) -> Orders:
    """Asks about each pair in both orders, once for each seed; equal texts are 1/2 without a question.

    Args:
        pairs: N pairs, repeated ones included.
        seeds: of the votes; the chance of an order is the mean of those that were read.
        ask: answers the votes.
    """
    different = list(dict.fromkeys(one for one in pairs if one[1] != one[2]))
    answers = ask(votes_on(different, seeds))
    votes = torch.tensor([answer.chance for answer in answers], dtype=torch.float64)
    chances = votes.reshape(-1, 2, len(seeds)).nanmean(2)  # [different, order]
    prob = dict(zip(different, chances.tolist(), strict=True))
    both = torch.tensor([prob.get(one, (0.5, 0.5)) for one in pairs], dtype=torch.float64).reshape(-1, 2)
    unread = int(chances.isnan().any(1).sum())
    verdicts = Counter(str(answer.verdict) for answer in answers)
    return Orders(both[:, 0], both[:, 1], len(different), unread, verdicts)


def votes_on(pairs: Sequence[Question], seeds: Sequence[int | None]) -> list[Vote]:
    """Returns the votes about pairs, of different texts, in both orders, and once for each seed."""
    questions = [question for x, a, b in pairs for question in ((x, a, b), (x, b, a))]
    return [(question, seed) for question in questions for seed in seeds]


class WritingJudge(ABC):
    """A judge that answers questions in words: it is asked in both orders, so many votes in each.

    Attributes:
        unread: the pairs that were unread.
        verdicts: how many answers said what, the first response being the one shown first.

    Args:
        seeds: of the votes in each order.
        unread: counts the pairs that are unread.
    """

    antisymmetric = True

    def __init__(self, seeds: Sequence[int | None], unread: UnreadPairs) -> None:
        self.unread = unread
        self.verdicts: Counter[str] = Counter()
        self._seeds = seeds

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64, NaN if unread; equal texts are 1/2 without a question.

        Raises:
            Unanswered: if a question found no answer after all repetitions, the budget is spent, or a pair is unread
                and stops the run.
            ValueError: if the model refuses the question or can't read it, or leaves most pairs unread.
        """
        straight, turned = self.both_orders(prompts, first, second)
        return (straight + (1 - turned)) / 2

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        NaN stands for an unread order.

        Raises:
            Unanswered: as `prob`.
            ValueError: as `prob`.
        """
        asked = both_orders(list(zip(prompts, first, second, strict=True)), self._seeds, self._answers)
        self.verdicts.update(asked.verdicts)
        self.unread.add(asked.different, asked.unread)
        return asked.straight, asked.turned

    @abstractmethod
    def _answers(self, votes: Sequence[Vote]) -> list[Reading]:
        """Returns what the answers to the votes say."""
