"""Curves of finished runs, read from their metrics.jsonl."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runners.run.record import read_config, read_lines

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
        own = f"loss/{names['agent']}"  # runs of version 0.1 wrote loss/sppo for loss/policy
        lines = [{"loss/policy" if tag == own else tag: value for tag, value in line.items()} for line in lines]
        label = f"{names['agent']}, {names['oracle']}, {names['task']}, seed {content['run']['seed']}"
        curves.append(Curves(label, lines))
    labels = [run.label for run in curves]
    if len(set(labels)) < len(labels):
        curves = [Curves(str(directory), run.lines) for directory, run in zip(directories, curves, strict=True)]
    return curves
