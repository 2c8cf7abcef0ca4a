"""Win rate and exploitability of last policies that an exploiter was trained against, and both at equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runners.benchmark.statistics import Interval, bootstrap
from runners.benchmark.suites import WIN_RATE

Cell = Mapping[str, Any]
KL, POOL = "eval/kl", "eval/exploitability_lower"
TRAINED = "trained"
COLUMNS = "runs", "win rate", "exploitable by at least", "best of n", TRAINED, "KL from the start"
"""Of `figures`."""


def exploited(results: Mapping[str, Any]) -> dict[str, dict[str, list[Cell]]]:
    """Returns game -> entrant -> its cells with bounds of exploiters, in the entrants' order."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for entrant in results["entrants"]:
        for cell in results["cells"]:
            if cell["entrant"] == entrant and "exploited" in cell:
                found.setdefault(cell["game"], {}).setdefault(entrant, []).append(cell)
    return found


def gain(cells: Sequence[Cell], adversary: str) -> Interval:
    """Returns what an adversary gains, the mean over runs; the interval of a single run is that over its prompts."""
    bounds = [_named(cell, adversary) for cell in cells]
    if len(bounds) == 1:
        return Interval(bounds[0]["value"], bounds[0]["low"], bounds[0]["high"])
    return _mean([one["value"] for one in bounds])


def strongest(cells: Sequence[Cell]) -> Interval:
    """Returns the gain of the adversary that gains most in the mean over runs."""
    return max((gain(cells, name) for name in ("best of", TRAINED)), key=lambda one: one.value)


def win_rate(cells: Sequence[Cell]) -> Interval:
    """Returns the last win rate against the start, the mean over runs; of a single one over its prompts."""
    curves = [cell["curve"] for cell in cells]
    if len(curves) == 1:
        return Interval(*(curves[0][tag][-1] for tag in (WIN_RATE, "eval/win_rate_low", "eval/win_rate_high")))
    return _mean([curve[WIN_RATE][-1] for curve in curves])


def figures(cells: Sequence[Cell]) -> list[Any]:
    """Returns the numbers of `COLUMNS`, of the runs of one entrant in one game."""
    bounds = strongest(cells), gain(cells, "best of"), gain(cells, TRAINED)
    return [str(len(cells)), win_rate(cells), *bounds, float(np.mean([cell["curve"][KL][-1] for cell in cells]))]


def shared_kl(cells: Sequence[Cell]) -> float:
    """Returns the largest KL from the start in nats that all of some runs reach."""
    return min(max(cell["curve"][KL]) for cell in cells)


def at_kl(cell: Cell, kl: float) -> float:
    """Returns the bound by the pool of the evaluations at the first point of that KL, between two of them linearly.

    Args:
        cell: with a curve of KL that begins at 0.
        kl: in nats, that the curve reaches.
    """
    distances, bounds = cell["curve"][KL], cell["curve"][POOL]
    after = next(i for i, distance in enumerate(distances) if distance >= kl)
    if after == 0:
        return bounds[0]
    share = (kl - distances[after - 1]) / (distances[after] - distances[after - 1])
    return bounds[after - 1] + share * (bounds[after] - bounds[after - 1])


def mean_at_kl(cells: Sequence[Cell], kl: float) -> Interval:
    """Returns the mean of `at_kl` over runs."""
    return _mean([at_kl(cell, kl) for cell in cells])


def _named(cell: Cell, adversary: str) -> Mapping[str, float]:
    return next(values for name, values in cell["exploited"].items() if name.startswith(adversary))


def _mean(values: Sequence[float]) -> Interval:
    return bootstrap(np.array(values)[:, None], lambda scores: scores.mean((-2, -1)))
