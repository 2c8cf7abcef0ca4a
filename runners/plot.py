"""`python -m runners.plot RUN [RUN ...]`: draws the curves of runs from their metrics.jsonl."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.run.curves import COLOURS, DASHES, Axis, Curves, read_curves


@dataclass(frozen=True)
class Panel:
    """One picture of the row.

    Attributes:
        title: what is shown, with its unit.
        tags: the curves, solid first.
        band: the tags of an interval around the first curve.
        level: a line that means "no better than the start".
        log: whether y is logarithmic.
    """

    title: str
    tags: tuple[str, ...]
    band: tuple[str, str] | None = None
    level: float | None = None
    log: bool = False


PANELS = (
    Panel(
        "Held-out win rate (last, dashed: average)",
        ("eval/win_rate_vs_ref", "eval/win_rate_average"),
        ("eval/win_rate_low", "eval/win_rate_high"),
        0.5,
    ),
    Panel("Exploitability (last, dashed: average)", ("game/exploitability", "game/exploitability_average")),
    Panel("Training loss", ("loss/policy",)),
    Panel("KL to the start, nats", ("policy/kl",)),
    Panel("Response length, tokens", ("policy/length",)),
)


GAPS = (
    Panel("Exploitability (last, dashed: average)", ("game/exploitability", "game/exploitability_average"), log=True),
    Panel("Regularised exploitability", ("game/regularised_exploitability",), log=True),
)


def draw(runs: Sequence[Curves], out: Path, axis: Axis = "steps", panels: Sequence[Panel] = PANELS) -> None:
    """Writes one picture with a panel for everything that some run measured and that changed.

    Args:
        runs: one colour each.
        out: a .png, .pdf or .svg file.
        axis: what stands on x: updates or oracle queries.
        panels: what may be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in panels if any(run.moves(panel.tags[0], axis) for run in runs)]
    if not panels:
        raise ValueError(f"nothing to draw: {', '.join(run.label for run in runs)} measured no curve of this picture")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(panel.title, fontsize=11)
        axes.set_xlabel("updates" if axis == "steps" else "oracle queries")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.log:
            axes.set_yscale("log")
        if panel.level is not None:
            axes.axhline(panel.level, color="0.4", linewidth=1, linestyle=":")
        for i, run in enumerate(runs):
            _curve(axes, panel, run, COLOURS[i % len(COLOURS)], axis)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(runs), 3), frameon=False, fontsize=10)
    figure.savefig(out, dpi=150)


def _curve(axes: Any, panel: Panel, run: Curves, colour: str, axis: Axis) -> None:
    for number, tag in enumerate(panel.tags):
        if run.has(tag):
            marker = "o" if tag.startswith(("eval/", "game/")) else None
            label = run.label if number == 0 else None
            style = {"color": colour, "linestyle": DASHES[number], "marker": marker, "markersize": 3.5}
            axes.plot(*run.points(tag, axis), label=label, linewidth=1.6, **style)
    if panel.band and all(run.has(tag) for tag in panel.band):
        x, low = run.points(panel.band[0], axis)
        axes.fill_between(x, low, run.points(panel.band[1], axis)[1], color=colour, alpha=0.18, linewidth=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns 0, or 1 after an error told in one line."""
    parser = argparse.ArgumentParser(prog="python -m runners.plot", description="Draws the curves of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="picture to write (default: curves.png)")
    parser.add_argument("--x", choices=("steps", "queries"), default="steps", help="what stands on x (default: steps)")
    options = parser.parse_args(arguments)
    try:
        draw(read_curves(options.runs), options.out, options.x)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
