"""`python -m runners.evaluate RUN [RUN ...]`: what runs have learned, under their own oracle or any other."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from preference_duel.names import UnknownNameError
from runners.duel import TRACEBACK
from runners.evaluation.comparison import AVERAGE, LAST, START, Assessment, Options, content
from runners.evaluation.figures import draw_payoff, draw_simplex
from runners.evaluation.printed_tables import show
from runners.evaluation.saved_runs import Finished
from runners.plot import GAPS, draw
from runners.run.curves import Curves
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns 0, 1 after an error and 2 after an unknown name, both told in one line."""
    try:
        evaluate(_parse(arguments))
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UnknownNameError) else 1


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m runners.evaluate", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, all of one task")
    parser.add_argument(
        "--oracle",
        dest="oracles",
        metavar="NAME[,FIELD=VALUE...]",
        nargs="+",
        action="extend",
        default=[],
        help="who judges, such as bt or cyclic,lam=0.75; several make the transfer table (default: the runs' own)",
    )
    parser.add_argument("--tau", type=float, help="KL coefficient of the regularised game (default: each run's own)")
    parser.add_argument("--policy", choices=(LAST, AVERAGE), default=LAST, help="who meets the other runs' policies")
    parser.add_argument("--prompts", type=int, default=128, help="held-out prompts at most (default: 128)")
    parser.add_argument("--pairs", type=int, default=4, help="draws per prompt; finite tasks need none (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="names the draws (default: 0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: RUN/evaluation, or evaluations/TIME for several runs)"
    )
    found = vars(parser.parse_args(arguments))
    return Options(tuple(found.pop("runs")), tuple(found.pop("oracles")), **found)


if __name__ == "__main__":
    sys.exit(main())
