"""Printed tables, evaluation.json and pictures of a comparison of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from runners.evaluation.comparison import Assessment, content
from runners.evaluation.figures import draw_payoff, draw_simplex
from runners.evaluation.options import AVERAGE, LAST, START, Options
from runners.evaluation.printed_tables import show
from runners.evaluation.saved_runs import Finished
from runners.run.curves import GAPS, Curves, draw
from runners.run.record import read_lines, write_whole


def write_pictures(assessment: Assessment, folder: Path) -> list[Path]:
    """Draws what can be drawn; returns the files.

    The payoff matrix and the simplex show the first prompt under the first judge.
    """
    runs = assessment.runs
    written = []
    if assessment.finite:
        board, prompt, texts = assessment.boards[0], assessment.prompts[0], assessment.task.response_texts
        solved = board.equilibria(assessment.laws[0][START], assessment.taus[0])
        points = {name: one[0] for name, one in solved.items()}
        chosen = {run.label: laws[LAST][0] for run, laws in zip(runs, assessment.laws, strict=True)}
        order = next(iter(points.values()))
        draw_payoff(folder / "payoff.png", prompt, texts, board.matrices[0], order, points | chosen)
        written.append(folder / "payoff.png")
        paths = {run.label: path for run in runs if (path := read_path(run, prompt))}
        if len(texts) == 3 and paths:
            draw_simplex(folder / "simplex.png", texts, board.matrices[0], paths, points)
            written.append(folder / "simplex.png")
    curves = [Curves(run.label, read_lines(run.directory / "metrics.jsonl")) for run in runs]
    axis = "queries" if all(run.has("duel/queries") for run in curves) else "steps"
    if any(run.moves(panel.tags[0], axis) for run in curves for panel in GAPS):
        draw(curves, folder / "gap.png", axis, GAPS)
        written.append(folder / "gap.png")
    return written


def read_path(run: Finished, prompt: str) -> list[NDArray[np.float64]]:
    """Returns how a run's policy and its average policy moved, [T, N] each, where the run wrote it down."""
    lines = [line for line in read_lines(run.directory / "laws.jsonl") if line["prompt"] == prompt]
    return [np.array([line[key] for line in lines]) for key in ("policy", AVERAGE) if lines and key in lines[0]]


def evaluate(options: Options) -> Path:
    """Judges runs, prints the tables, writes evaluation.json and the pictures; returns their folder.

    Raises:
        ValueError: if runs and judges do not fit together.
        OSError: if a run can't be read or the folder can't be written.
    """
    assessment = Assessment(options)
    found = content(assessment)
    width = None if sys.stdout.isatty() else 140
    show(found, Console(width=width, highlight=False))
    folder = options.out or _default_folder(options.runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "evaluation.json", json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    for path in [folder / "evaluation.json", *write_pictures(assessment, folder)]:
        print(path)
    return folder


def _default_folder(runs: Sequence[Path]) -> Path:
    return runs[0] / "evaluation" if len(runs) == 1 else Path("evaluations") / datetime.now().strftime("%Y%m%d-%H%M%S")
