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

from runners.evaluation.comparison import Comparison, content
from runners.evaluation.figures import draw_payoff, draw_simplex
from runners.evaluation.options import AVERAGE, LAST, START, Options
from runners.evaluation.printed_tables import show
from runners.evaluation.saved_runs import SavedRun
from runners.evaluation.tokens.token_credit import sampled_credits, show_credits, write_credits
from runners.run.curves import GAPS, Curves, draw
from runners.run.record import read_lines, write_whole


def write_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws the pictures that the task and the logs allow; returns the files.

    The payoff matrix and the simplex show the first prompt under the first judge.
    """
    runs = comparison.runs
    written = []
    if comparison.finite:
        exact, prompt, texts = comparison.exact[0], comparison.prompts[0], comparison.task.response_texts
        solved = exact.equilibria(comparison.distributions[0][START], comparison.taus[0])
        points = {name: rows[0] for name, rows in solved.items()}
        chosen = {run.label: named[LAST][0] for run, named in zip(runs, comparison.distributions, strict=True)}
        order = next(iter(points.values()))
        draw_payoff(folder / "payoff.png", prompt, texts, exact.matrices[0], order, points | chosen)
        written.append(folder / "payoff.png")
        paths = {run.label: path for run in runs if (path := read_path(run, prompt))}
        if len(texts) == 3 and paths:
            draw_simplex(folder / "simplex.png", texts, exact.matrices[0], paths, points)
            written.append(folder / "simplex.png")
    curves = [Curves(run.label, read_lines(run.directory / "metrics.jsonl")) for run in runs]
    axis = "queries" if all(run.has("duel/queries") for run in curves) else "steps"
    if any(run.moves(panel.tags[0], axis) for run in curves for panel in GAPS):
        draw(curves, folder / "gap.png", axis, GAPS)
        written.append(folder / "gap.png")
    return written


def read_path(run: SavedRun, prompt: str) -> list[NDArray[np.float64]]:
    """Returns how a run's policy and its average policy moved, [T, N] each, if the run recorded it."""
    lines = [line for line in read_lines(run.directory / "distributions.jsonl") if line["prompt"] == prompt]
    return [np.array([line[key] for line in lines]) for key in ("policy", AVERAGE) if lines and key in lines[0]]


def evaluate(options: Options) -> Path:
    """Compares runs, prints the tables, writes evaluation.json and the pictures; returns their folder.

    Raises:
        ValueError: if runs and judges do not fit together.
        OSError: if a run can't be read or the folder can't be written.
    """
    comparison = Comparison(options)
    results = content(comparison)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    show(results, console)
    if options.tokens:
        results["tokens"] = sampled_credits(comparison)
        show_credits(results, console)
    folder = options.out or _default_folder(options.runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "evaluation.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    written = [folder / "evaluation.json", *write_pictures(comparison, folder)]
    if options.tokens:
        written.append(write_credits(results, folder / "tokens.html"))
    for path in written:
        print(path)
    return folder


def _default_folder(runs: Sequence[Path]) -> Path:
    return runs[0] / "evaluation" if len(runs) == 1 else Path("evaluations") / datetime.now().strftime("%Y%m%d-%H%M%S")
