"""A panel of judges: annotators that are machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from oracles.judging.unread import Unread, UnreadPairs

if TYPE_CHECKING:
    from torch import Tensor

    from oracles.judging.endpoint_judge import EndpointJudge


class Panel:
    """Asks several judges about each pair: P is the mean of theirs, which can be cyclic though none of them is.

    A pair is unread if one of them leaves it unread: a mean over the others would be another panel's.

    Attributes:
        unread: the pairs that were unread.

    Args:
        judges: two or more, which drop what they can't read.
        unread: what an unread pair leads to.
    """

    antisymmetric = True

    def __init__(self, judges: Sequence[EndpointJudge], unread: Unread = "drop") -> None:
        self.judges = list(judges)
        self.leaves_unread = unread == "drop"
        self.unread = UnreadPairs(f"a panel of {len(judges)}", unread, "see which of its judges leaves pairs unread")

    @property
    def verdicts(self) -> Counter[str]:
        """Answers of its judges by verdict."""
        return sum((judge.verdicts for judge in self.judges), Counter())

    @property
    def description(self) -> str:
        """The judges, for the first line of a run."""
        return f"panel of {len(self.judges)}: " + ", ".join(judge.description for judge in self.judges)

    def ask_ahead(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
        """Asks all judges about pairs, and waits for no answer."""
        for judge in self.judges:
            judge.ask_ahead(prompts, first, second)

    def forget(self) -> None:
        """Drops the questions that were asked ahead."""
        for judge in self.judges:
            judge.forget()

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64, NaN if unread; equal texts are 1/2 without a question.

        Raises:
            Unanswered, ValueError: as the judges.
        """
        straight, turned = self.both_orders(prompts, first, second)
        return (straight + (1 - turned)) / 2

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        Raises:
            Unanswered, ValueError: as the judges.
        """
        answers: Any = [judge.both_orders(prompts, first, second) for judge in self.judges]
        straight, turned = (torch.stack(order).mean(0) for order in zip(*answers, strict=True))
        different = len({one for one in zip(prompts, first, second, strict=True) if one[1] != one[2]})
        unread = (straight + turned).isnan()
        places = zip(prompts, first, second, unread.tolist(), strict=True)
        self.unread.add(different, len({(x, a, b) for x, a, b, gone in places if gone}))
        return straight, turned
