"""The picture of over-optimisation: rewards, win rate and exploitability against the root of the KL from the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runners.evaluation.overoptimisation.pooled_points import PooledCurve, PooledPoint
from runners.evaluation.overoptimisation.turning_point import Values, interval
from runners.run.curves import COLOURS

LABELS = {"proxy": "proxy reward", "gold": "gold reward", "test": "test reward"}


def draw(curve: PooledCurve, exact: bool, out: Path) -> None:
    """Draws the curves of a measurement into a PNG file; `exact`: whether the exploitability is no lower bound."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    where = _roots(curve.checkpoints)
    for i, judge in enumerate(curve.checkpoints[0].reward):
        colour = COLOURS[i]
        _line(left, where, [one.reward[judge] for one in curve.checkpoints], LABELS[judge], colour)
        best = [one.reward[judge].mean() for one in curve.best_of]
        left.plot(_roots(curve.best_of), best, "o", mfc="none", color=colour, label=f"{LABELS[judge]}, best of n")
    limit = np.linspace(0, where.max(), 2)
    left.plot(
        limit, limit * (2 * curve.variance) ** 0.5, ":", color="grey", label=r"$\sqrt{2\,\mathrm{Var}\,\mathrm{KL}}$"
    )
    tallest = max(one.reward[judge].mean() for one in (*curve.checkpoints, *curve.best_of) for judge in one.reward)
    left.set(ylabel="reward: log odds against the start", ylim=(None, 1.15 * tallest if tallest > 0 else None))
    _line(
        right, where, [one.win_rate["gold"] for one in curve.checkpoints], "gold win rate against the start", COLOURS[1]
    )
    exploited = "exploitability" if exact else "exploitability, lower bound"
    bounds = [one.exploitability for one in curve.checkpoints if one.exploitability is not None]
    if len(bounds) == len(where):
        _line(right, where, bounds, exploited, COLOURS[3])
    for axes in (left, right):
        if curve.turn.turns:
            found = curve.turn.kl
            axes.axvline(found.value**0.5, color="black", lw=0.8, label="gold reward turns")
            if found.low is not None and found.high is not None:
                axes.axvspan(max(found.low, 0) ** 0.5, max(found.high, 0) ** 0.5, color="black", alpha=0.08, lw=0)
        axes.set(xlabel=r"$\sqrt{\mathrm{KL}}$ from the start, nats$^{1/2}$")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=110)


def _roots(points: list[PooledPoint]) -> Values:
    return np.array([max(one.kl.mean(), 0.0) for one in points]) ** 0.5


def _line(axes: object, where: Values, values: list[Values], label: str, colour: str) -> None:
    found = [interval(one) for one in values]
    axes.plot(where, [one.value for one in found], ".-", color=colour, label=label)  # pyright: ignore[reportAttributeAccessIssue]
    if found[0].low is not None:
        ends = [[getattr(one, end) for one in found] for end in ("low", "high")]
        axes.fill_between(where, *ends, color=colour, alpha=0.15, lw=0)  # pyright: ignore[reportAttributeAccessIssue]
