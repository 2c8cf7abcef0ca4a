"""The intransitive share and the test of one score per item, of each label's votes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.votes.statistics.audit import finite
from envs.votes.statistics.bradley_terry import fit_bradley_terry
from envs.votes.statistics.fit_test import FitTest, fit_test
from envs.votes.statistics.share import Share, intransitive_share
from envs.votes.table import VoteTable


@dataclass(frozen=True)
class Label:
    """The votes of one label, such as helpful or harmless.

    Attributes:
        name: of the label.
        verdicts: how many there are.
        share: the intransitive share.
        fit: the test of one score per item.
        leader: the item of the highest Bradley-Terry score, ties as half wins.
    """

    name: str
    verdicts: int
    share: Share
    fit: FitTest
    leader: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers ready for JSON; None stands for a number that doesn't exist."""
        return finite(vars(self) | {"share": vars(self.share), "fit": vars(self.fit)})


def audit_labels(table: VoteTable, names: Sequence[str], widening: float, draws: int, seed: int) -> list[Label]:
    """Returns the labels' votes audited one by one, those with most verdicts first.

    Args:
        table: with labels.
        names: of the labels.
        widening: factor of the shares' intervals, that of all votes.
        draws: tables of the fit test.
        seed: of all draws.
    """
    found = []
    for i, name in enumerate(names):
        if not (table.labels == i).any():  # it stands on skipped rows alone
            continue
        part = table.chosen(table.labels == i)
        wins, ties = part.tally()
        fit, _ = fit_test(part.items, wins, draws, np.random.default_rng(seed))
        scores = fit_bradley_terry(wins + ties / 2)
        leader = part.items[int(np.lexsort((-scores.score, scores.component))[0])]
        found.append(Label(name, len(part), intransitive_share(wins, ties, seed, widening), fit, leader))
    return sorted(found, key=lambda one: -one.verdicts)
