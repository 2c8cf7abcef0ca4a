"""Curves of several runs as one, with intervals over runs; of a single run with intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from envs.games.reward_gains import most_gain
from runners.evaluation.overoptimisation.gain_curves import GainCurve, Point
from runners.evaluation.overoptimisation.turning_point import Turn, Values, turn


@dataclass(frozen=True)
class PooledPoint:
    """A checkpoint of several runs at one step, or their best-of-n.

    Attributes:
        name: "start", "step N" or "best of N".
        kl: [U] of U runs, or prompts of the only run, nats.
        reward: judge -> [U] mean log odds against the start.
        win_rate: judge -> [U] against the start.
        ratio: mean over runs of the proxy's gain over sqrt(2 Var KL); None of the start.
        exploitability: [R] of the runs; None: not measured.
        log_loss: of the corpus, mean over runs, nats for each response; None: not measured.
    """

    name: str
    kl: Values
    reward: dict[str, Values]
    win_rate: dict[str, Values]
    ratio: float | None
    exploitability: Values | None
    log_loss: float | None


@dataclass(frozen=True)
class PooledCurve:
    """All runs as one.

    Attributes:
        unit: what intervals are over, "runs" or "prompts".
        variance: mean of the proxy's variance under the start.
        checkpoints: the start, and the steps that all runs have.
        best_of: best-of-n.
        turn: where the gold reward turns.
        least_exploitable: where the exploitability is least, and the rise from there; None: not measured.
    """

    unit: str
    variance: float
    checkpoints: list[PooledPoint]
    best_of: list[PooledPoint]
    turn: Turn
    least_exploitable: Turn | None


def pooled(curves: Sequence[GainCurve]) -> PooledCurve:
    """Pools the curves of runs at the steps that all of them have.

    Raises:
        ValueError: if beside the start there is none.
    """
    rows = [{one.number: one for one in curve.checkpoints} for curve in curves]
    steps = sorted(set(rows[0]).intersection(*rows[1:]))
    if len(steps) < 2:
        kept = "; ".join(f"{curve.directory}: {sorted(row)[1:]}" for curve, row in zip(curves, rows, strict=True))
        raise ValueError(
            f"no step has a checkpoint in every run ({kept}): give them one --run.save_every and --run.keep"
        )
    checkpoints = [_pooled([row[step] for row in rows], curves) for step in steps]
    best_of = [_pooled(points, curves) for points in zip(*(curve.best_of for curve in curves), strict=True)]
    unit = "runs" if len(curves) > 1 else "prompts"
    variance = sum(curve.variance.mean().item() for curve in curves) / len(curves)
    gold, kl = (np.stack(part) for part in zip(*((one.reward["gold"], one.kl) for one in checkpoints), strict=True))
    bounds = [one.exploitability for one in checkpoints if one.exploitability is not None]
    least = None
    if len(bounds) == len(checkpoints):
        exploited = np.stack(bounds)
        least = turn(-exploited, kl if len(curves) > 1 else kl.mean(1, keepdims=True))
    return PooledCurve(unit, variance, checkpoints, best_of, turn(gold, kl), least)


def _pooled(points: Sequence[Point], curves: Sequence[GainCurve]) -> PooledPoint:
    first = points[0]
    bounds = [one.exploitability.value for one in points if one.exploitability is not None]
    ratios = []
    for point, curve in zip(points, curves, strict=True):
        gain = point.reward["proxy"].mean() - curve.checkpoints[0].reward["proxy"].mean()
        most = most_gain(curve.variance.mean(), point.kl.mean()).item()
        ratios.append(gain.item() / most if most > 0 else None)  # an estimated KL may be below 0
    return PooledPoint(
        first.name,
        _units([one.kl for one in points]),
        {judge: _units([one.reward[judge] for one in points]) for judge in first.reward},
        {judge: _units([one.win_rate[judge] for one in points]) for judge in first.win_rate},
        _mean(ratios) if first.name != "start" else None,
        np.array(bounds) if len(bounds) == len(points) else None,
        _mean([one.log_loss for one in points]),
    )


def _units(by_run: Sequence[Tensor]) -> Values:
    """Returns the means of runs, or the prompts of the only run."""
    return by_run[0].numpy() if len(by_run) == 1 else np.array([values.mean().item() for values in by_run])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
