"""Curves of finished runs: read from their metrics.jsonl, and drawn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runners.run.config_file import read_config
from runners.run.record import read_lines

COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
"""Okabe and Ito's, which colour-blind readers tell apart."""


DASHES = "-", "--", "-.", ":"


Axis = Literal["steps", "queries"]


@dataclass(frozen=True)
class Curves:
    """The metrics of one run.

    Attributes:
        label: what the legend calls it.
        lines: the lines of metrics.jsonl.
    """

    label: str
    lines: Sequence[Mapping[str, Any]]

    def has(self, tag: str) -> bool:
        """Returns whether the run has this curve."""
        return any(tag in line for line in self.lines)

    def points(self, tag: str, axis: Axis) -> tuple[list[float], list[float]]:
        """Returns x and y of a curve."""
        chosen = [line for line in self.lines if tag in line]
        where = self._queries() if axis == "queries" else float
        return [where(line["step"]) for line in chosen], [line[tag] for line in chosen]

    def moves(self, tag: str, axis: Axis) -> bool:
        """Returns whether the run has this curve, and it is no constant."""
        return self.has(tag) and len(set(self.points(tag, axis)[1])) > 1

    def _queries(self) -> Callable[[int], float]:
        """Returns the queries made up to a step."""
        known = [(line["step"], line["duel/queries"]) for line in self.lines if "duel/queries" in line]
        if not known:
            raise ValueError(
                f"{self.label} counted no queries (whole distributions were played); draw it over --x steps"
            )
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
        own = f"loss/{names['agent']}"  # runs of version 0.1 wrote loss/sppo for loss/policy
        lines = [{"loss/policy" if tag == own else tag: value for tag, value in line.items()} for line in lines]
        label = f"{names['agent']}, {names['oracle']}, {names['task']}, seed {content['run']['seed']}"
        curves.append(Curves(label, lines))
    labels = [run.label for run in curves]
    if len(set(labels)) < len(labels):
        curves = [Curves(str(directory), run.lines) for directory, run in zip(directories, curves, strict=True)]
    return curves


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
    Panel("Exploitability, at least", ("eval/exploitability_lower",)),
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
