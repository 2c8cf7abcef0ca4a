"""Tests of one score per item, exact at any sparsity: the deviance and the cyclic triads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from envs.votes.statistics.bradley_terry import deviance, fit_bradley_terry
from envs.votes.statistics.conditional import parts_of, sample_tables
from envs.votes.table import Matrix, VoteTable

_SURE = 0.95


@dataclass(frozen=True)
class FitTest:
    """The test of the Bradley-Terry model on the decided verdicts, exact at any sparsity.

    Attributes:
        deviance: G2 of the decided verdicts.
        freedom: compared pairs - (items - components); 0 if the comparisons form no cycle and nothing can be tested.
        p_value: share of tables, among those with the same wins of every item, that fit as badly or worse.
    """

    deviance: float
    freedom: int
    p_value: float


@dataclass(frozen=True)
class Triads:
    """Three items, each of which beats one of the others in most of their verdicts.

    Attributes:
        seen: cyclic triads of the table.
        expected: their mean over the tables of the fit test.
        p_value: share of these tables with as many or more.
        sure: cycles (a beats b beats c beats a) whose posterior probability exceeds .95, and that probability.
    """

    seen: int
    expected: float
    p_value: float
    sure: Sequence[tuple[str, str, str, float]]


def fit_test(items: Sequence[str], wins: Matrix, draws: int, generator: np.random.Generator) -> tuple[FitTest, Triads]:
    """Tests the Bradley-Terry model on decided verdicts, by the deviance and by the number of cyclic triads.

    Both are compared with `draws` tables in which every item won as often, see `sample_tables`.
    """
    wins = np.rint(wins)
    test, _, triads = _misfits(wins, draws, generator)
    seen = int(cyclic_triads(wins))
    return test, Triads(seen, float(triads.mean()), _p_value(triads >= seen), _sure_cycles(items, wins))


def _misfits(
    wins: Matrix, draws: int, generator: np.random.Generator
) -> tuple[FitTest, NDArray[np.float64], NDArray[np.float64]]:
    """Returns the test, and [draws] deviances and cyclic triads of the sampled tables."""
    fitted = fit_bradley_terry(wins)
    pairs = int((np.triu(wins + wins.T) > 0).sum())
    freedom = pairs - len(wins) + int(fitted.component.max()) + 1
    chance = fitted.chance()
    misfit = float(deviance(wins, chance))
    if freedom == 0:
        return FitTest(misfit, 0, 1.0), np.full(draws, misfit), np.full(draws, cyclic_triads(wins))
    tables = sample_tables(wins, draws, generator)
    misfits = np.concatenate([deviance(tables[part], chance) for part in parts_of(draws, len(wins))])
    triads = np.concatenate([cyclic_triads(tables[part]) for part in parts_of(draws, len(wins))])
    return FitTest(misfit, freedom, _p_value(misfits >= misfit * (1 - 1e-12))), misfits, triads


def fit_test_within_prompts(table: VoteTable, draws: int, generator: np.random.Generator) -> FitTest | None:
    """Tests that one score per item and prompt explains the decided verdicts: deviances are summed over the prompts.

    A misfit of the whole table that is absent within prompts says that the items' strengths differ from prompt to
    prompt, and is no cycle of preferences.
    """
    if table.prompts is None or len(np.unique(table.prompts)) < 2:
        return None
    misfit, freedom, misfits = 0.0, 0, np.zeros(draws)
    for prompt in np.unique(table.prompts):
        rows = np.flatnonzero(table.prompts == prompt)
        present, places = np.unique(np.concatenate([table.first[rows], table.second[rows]]), return_inverse=True)
        first, second = places[: len(rows)], places[len(rows) :]
        wins, _ = VoteTable(present.astype(str).tolist(), first, second, table.outcome[rows]).tally()
        one, drawn, _ = _misfits(np.rint(wins), draws, generator)
        misfit, freedom, misfits = misfit + one.deviance, freedom + one.freedom, misfits + drawn
    return FitTest(misfit, freedom, _p_value(misfits >= misfit * (1 - 1e-12)) if freedom else 1.0)


def _beats(wins: Matrix) -> NDArray[np.float32]:
    return (wins > np.swapaxes(wins, -1, -2)).astype(np.float32)


def cyclic_triads(wins: Matrix) -> NDArray[np.float64]:
    """Counts [...] triads in a cycle: a third of the trace of the cube of the relation."""
    beats = _beats(wins)
    return np.rint(((beats @ beats) * np.swapaxes(beats, -1, -2)).sum((-1, -2), dtype=np.float64) / 3)


def decided_triads(wins: Matrix) -> float:
    """Counts triads of which each pair is decided."""
    met = _beats(wins) + _beats(wins).T
    return float(np.rint(((met @ met) * met).sum(dtype=np.float64) / 6))


def posterior(wins: Matrix, ties: Matrix | float = 0.0) -> Matrix:
    """Returns [n, n] the probability that the row beats the column, under Jeffreys' prior; 1/2 without verdicts."""
    half = wins + ties / 2
    return 1 - betainc(half + 0.5, half.T + 0.5, 0.5)


def _sure_cycles(items: Sequence[str], wins: Matrix) -> list[tuple[str, str, str, float]]:
    """Returns the cycles of three whose posterior probability exceeds .95, the most probable first; at most 20."""
    probable = posterior(wins)
    strong = np.where(probable > _SURE, probable, 0.0)  # no factor of a product above .95 is smaller
    cycles = []
    for i in np.flatnonzero(strong.any(1)).tolist():
        after = np.flatnonzero(strong[i]).tolist()
        through = strong[i, after][:, None] * strong[after][:, :] * strong[:, i][None, :]
        for place, k in np.argwhere(through > _SURE).tolist():
            j = after[place]
            if i < j and i < k:
                cycles.append((items[i], items[j], items[k], float(through[place, k])))
    return sorted(cycles, key=lambda cycle: -cycle[3])[:20]


def _p_value(as_extreme: NDArray[np.bool_]) -> float:
    return float((1 + as_extreme.sum()) / (1 + len(as_extreme)))
