"""Agreement of annotators, and the effect of the order in which two responses are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np
from scipy.stats import binomtest, false_discovery_control, fisher_exact

from envs.votes.statistics.fit_test import cyclic_triads, decided_triads
from envs.votes.table import VoteTable

_DISCOVERIES = 0.05


@dataclass(frozen=True)
class Order:
    """The order effect.

    Attributes:
        first_wins: share of the decided verdicts that the item shown first won; NaN if the file doesn't say the order.
        low: lower end of Wilson's 95 % interval.
        high: upper end.
        depends: items whose wins depend on their seat (Fisher's exact test, false discovery rate 5 %): name, share of
            decided verdicts won when first, and when second.
    """

    first_wins: float
    low: float
    high: float
    depends: Sequence[tuple[str, float, float]]


@dataclass(frozen=True)
class Agreement:
    """The annotators.

    Attributes:
        count: how many there are.
        alpha: Krippendorff's alpha (ordinal: loss, tie, win) over pairs, within prompts where the file names them.
        triads: triads that a single annotator decided whole.
        cyclic: how many of these are cycles; a coin would make a quarter.
    """

    count: int
    alpha: float
    triads: int
    cyclic: int


def order_effect(table: VoteTable) -> Order:
    """Measures whether the item that is shown first wins more often, over all and for each item."""
    decided = table.outcome != 0.5
    if not table.seated or not decided.any():
        return Order(np.nan, np.nan, np.nan, ())
    first_won = table.outcome > 0.5
    won, shown = int(first_won[decided].sum()), int(decided.sum())
    interval = binomtest(won, shown).proportion_ci(method="wilson")
    count = len(table.items)
    as_first = np.bincount(table.first[decided], minlength=count)
    as_second = np.bincount(table.second[decided], minlength=count)
    won_first = np.bincount(table.first[decided & first_won], minlength=count)
    won_second = np.bincount(table.second[decided & ~first_won], minlength=count)
    both = np.flatnonzero((as_first > 0) & (as_second > 0)).tolist()
    p_values = [
        fisher_exact([[won_first[i], as_first[i] - won_first[i]], [won_second[i], as_second[i] - won_second[i]]])[1]
        for i in both
    ]
    adjusted = false_discovery_control(p_values) if p_values else []
    depends = [
        (table.items[i], float(won_first[i] / as_first[i]), float(won_second[i] / as_second[i]))
        for i, p in zip(both, adjusted, strict=True)
        if p < _DISCOVERIES
    ]
    return Order(won / shown, float(interval.low), float(interval.high), depends)


def agreement(table: VoteTable) -> Agreement | None:
    """Measures how far annotators agree, and whether single ones are cyclic; None if the file names none."""
    if table.annotators is None:
        return None
    forward = table.first < table.second
    low, high = np.where(forward, table.first, table.second), np.where(forward, table.second, table.first)
    verdict = np.sign(np.where(forward, table.outcome, 1 - table.outcome) - 0.5).astype(np.int64) + 1
    prompt = np.zeros(len(table), dtype=np.int64) if table.prompts is None else table.prompts
    _, unit = np.unique(np.stack([prompt, low, high]), axis=1, return_inverse=True)
    counts = np.zeros((int(unit.max()) + 1, 3), dtype=np.int64)
    np.add.at(counts, (unit.ravel(), verdict), 1)
    several = counts[counts.sum(1) > 1]
    varied = len(several) and (several.sum(0) > 0).sum() > 1
    alpha = (
        krippendorff.alpha(value_counts=several, value_domain=[0, 1, 2], level_of_measurement="ordinal")
        if varied
        else np.nan
    )
    triads = cyclic = 0
    for annotator in np.unique(table.annotators):
        own, _ = table.tally(np.flatnonzero(table.annotators == annotator))
        triads += int(decided_triads(own))
        cyclic += int(cyclic_triads(own))
    return Agreement(len(np.unique(table.annotators)), float(alpha), triads, cyclic)
