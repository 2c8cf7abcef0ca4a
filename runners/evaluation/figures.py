"""Pictures of finite games: the payoff matrix in the equilibrium's order, and a policy's path on the simplex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.games import exploitability
from runners.run.curves import COLOURS

LABELLED = 40
"""Most responses that are named beside the matrix."""
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
"""Positions of the three responses in the plane."""
GRID = 80


def draw_payoff(
    out: Path,
    prompt: str,
    responses: Sequence[str],
    payoff: Tensor,
    order_by: Tensor,
    distributions: Mapping[str, Tensor],
) -> None:
    """Draws one prompt's payoff matrix, responses in falling order of a distribution, and the distributions beside it.

    Args:
        out: the picture's file.
        prompt: the prompt of the game.
        responses: N texts.
        payoff: [N, N] chances that the row beats the column.
        order_by: [N] what the rows and columns are ordered by.
        distributions: name -> [N].
    """
    figure, (left, right) = _figure(9.6, 4.8, 1, 2, width_ratios=[3, 2])
    order = order_by.argsort(descending=True, stable=True)
    shown = left.imshow(payoff[order][:, order].numpy(), cmap="RdBu", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(shown, ax=left, label="P(row beats column)", shrink=0.85)
    left.set_title(f"Payoff of prompt {prompt!r}, by equilibrium mass", fontsize=11)
    place = np.arange(len(responses))
    for i, (name, distribution) in enumerate(distributions.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "label": name, "linewidth": 1.2}
        right.plot(
            distribution[order].numpy(), place, marker="o" if len(place) <= LABELLED else None, markersize=3, **style
        )
    right.set_ylim(len(responses) - 0.5, -0.5)
    right.set_xlabel("probability")
    right.set_title("Policies", fontsize=11)
    right.legend(frameon=False, fontsize=8)
    names = [responses[i] for i in order.tolist()] if len(responses) <= LABELLED else []
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_ticks(place if names else [], names)
    left.tick_params(axis="x", rotation=90 if len(names) > 4 else 0)
    figure.savefig(out, dpi=150)


def draw_simplex(
    out: Path,
    responses: Sequence[str],
    payoff: Tensor,
    paths: Mapping[str, Sequence[NDArray[np.float64]]],
    points: Mapping[str, Tensor],
) -> None:
    """Draws the paths of distributions over three responses on a map of their exploitability.

    Args:
        out: the picture's file.
        responses: three texts.
        payoff: [3, 3] chances that the row beats the column.
        paths: run -> [T, 3] its policy in time, and its average policy if it has one.
        points: name -> [3] distributions that are marked.
    """
    figure, (axes,) = _figure(6.4, 5.8, 1, 1)
    grid_points = np.array([(i, j, GRID - i - j) for i in range(GRID + 1) for j in range(GRID + 1 - i)]) / GRID
    heights = exploitability(payoff, torch.from_numpy(grid_points)[:, None, :]).squeeze(-1).numpy()
    filled = axes.tricontourf(*(grid_points @ CORNERS).T, heights, levels=12, cmap="Greys", alpha=0.75)
    figure.colorbar(filled, ax=axes, label="exploitability", shrink=0.7)
    for i, (name, two) in enumerate(paths.items()):
        for label, line, path in zip((name, f"{name}, average"), "-:", two, strict=False):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": line, "marker": ".", "markersize": 4}
            axes.plot(*(path @ CORNERS).T, label=label, linewidth=1.6, **style)
    for (name, point), marker in zip(points.items(), "so*D", strict=False):
        axes.plot(
            *(point.numpy() @ CORNERS),
            marker,
            label=name,
            color="white",
            markeredgecolor="black",
            markersize=9,
            zorder=3,
        )
    for (x, y), name in zip(CORNERS, responses, strict=True):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(0, 7 if y else -15), ha="center")
    axes.set_aspect("equal")
    axes.set_axis_off()
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(out, dpi=150)


def _figure(width: float, height: float, rows: int, columns: int, **grid: Any) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid or None).ravel()
