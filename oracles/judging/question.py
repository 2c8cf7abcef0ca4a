"""The questions of a judge: the text of a pair, and both orders of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from oracles.judging.verdicts import Reading

if TYPE_CHECKING:
    from torch import Tensor

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
    questions = [question for x, a, b in different for question in ((x, a, b), (x, b, a))]
    answers = ask([(question, seed) for question in questions for seed in seeds])
    votes = torch.tensor([answer.chance for answer in answers], dtype=torch.float64)
    chances = votes.reshape(-1, 2, len(seeds)).nanmean(2)  # [different, order]
    prob = dict(zip(different, chances.tolist(), strict=True))
    both = torch.tensor([prob.get(one, (0.5, 0.5)) for one in pairs], dtype=torch.float64).reshape(-1, 2)
    unread = int(chances.isnan().any(1).sum())
    verdicts = Counter(str(answer.verdict) for answer in answers)
    return Orders(both[:, 0], both[:, 1], len(different), unread, verdicts)
