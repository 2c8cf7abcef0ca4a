"""`python -m runners.plot RUN [RUN ...]`: draws the curves of runs from their metrics.jsonl."""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runners.record import read_config, read_lines

COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
"""Okabe and Ito's, which colour-blind readers tell apart."""
DASHES = "-", "--", "-.", ":"
Axis = Literal["steps", "queries"]


@dataclass(frozen=True)
class Panel:
    """One picture of the row.

    Attributes:
        title: what is shown, with its unit.
        tags: the curves, solid first; "loss/" stands for the loss of the run's own agent.
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
    Panel("Training loss", ("loss/",)),
    Panel("KL to the start, nats", ("policy/kl",)),
    Panel("Response length, tokens", ("policy/length",)),
)


_BESIDE = "learning_rate", "grad_norm", "model", "value", "approx_kl", "clip_fraction", "explained_variance"
BESIDE = {f"loss/{name}" for name in _BESIDE}
"""What stands beside an agent's loss."""
GAPS = (
    Panel("Exploitability (last, dashed: average)", ("game/exploitability", "game/exploitability_average"), log=True),
    Panel("Regularised exploitability", ("game/regularised_exploitability",), log=True),
)


@dataclass(frozen=True)
class Curves:
    """The metrics of one run.

    Attributes:
        label: what the legend calls it.
        lines: the lines of metrics.jsonl.
    """

    label: str
    lines: Sequence[Mapping[str, Any]]

    def tag(self, wanted: str) -> str | None:
        """Returns the run's own tag for one of a panel."""
        tags = [tag for line in self.lines for tag in line if tag not in BESIDE]
        return next((tag for tag in tags if tag == wanted or (wanted == "loss/" and tag.startswith(wanted))), None)

    def points(self, tag: str, axis: Axis) -> tuple[list[float], list[float]]:
        """Returns x and y of a curve."""
        chosen = [line for line in self.lines if tag in line]
        where = self._queries() if axis == "queries" else float
        return [where(line["step"]) for line in chosen], [line[tag] for line in chosen]

    def moves(self, wanted: str, axis: Axis) -> bool:
        """Returns whether the run has this curve, and it is no constant."""
        tag = self.tag(wanted)
        return tag is not None and len(set(self.points(tag, axis)[1])) > 1

    def _queries(self) -> Callable[[int], float]:
        """Returns the queries made up to a step."""
        known = [(line["step"], line["duel/queries"]) for line in self.lines if "duel/queries" in line]
        if not known:
            raise ValueError(f"{self.label} counted no queries (whole laws were played); draw it over --x steps")
        numbers = [step for step, _ in known]
        return lambda step: float(([0, *(count for _, count in known)])[bisect_right(numbers, step)])


def read_curves(directories: Sequence[Path]) -> list[Curves]:
    """Returns the curves of run directories.

    Raises:
        ValueError: if one is no run directory, or has no metrics yet.
    """
    curves = []
    for directory in directories:
        content = read_config(directory)
        lines = read_lines(directory / "metrics.jsonl")
        if not lines:
            raise ValueError(f"{directory / 'metrics.jsonl'} has no metrics yet")
        names = content["names"]
        label = f"{names['agent']}, {names['oracle']}, {names['task']}, seed {content['run']['seed']}"
        curves.append(Curves(label, lines))
    labels = [run.label for run in curves]
    if len(set(labels)) < len(labels):
        curves = [Curves(str(directory), run.lines) for directory, run in zip(directories, curves, strict=True)]
    return curves


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
    for number, wanted in enumerate(panel.tags):
        tag = run.tag(wanted)
        if tag is not None:
            marker = "o" if tag.startswith(("eval/", "game/")) else None
            label = run.label if number == 0 else None
            style = {"color": colour, "linestyle": DASHES[number], "marker": marker, "markersize": 3.5}
            axes.plot(*run.points(tag, axis), label=label, linewidth=1.6, **style)
    if panel.band and all(run.tag(tag) for tag in panel.band):
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
