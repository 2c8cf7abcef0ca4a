"""`python -m benchmarks.votes_speed`: seconds of whole commands on simulated votes, start and reading included."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from benchmarks.timing import timed

CASES = (
    ("audit", 20, 33_000, ("--draws", "999")),
    ("audit", 200, 200_000, ("--draws", "999")),
    ("leaderboard", 70, 33_000, ("--draws", "200")),
    ("leaderboard", 70, 1_000_000, ("--draws", "200")),
)
"""Command, items, verdicts and options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of verdicts (default: 1)")
    scale = parser.parse_args(arguments).scale
    with tempfile.TemporaryDirectory() as folder:
        for command, items, verdicts, options in CASES:
            file = Path(folder) / "votes.csv"
            count = int(scale * verdicts)
            _write(file, items, count)
            line = [sys.executable, "-m", f"runners.{command}", str(file), *options]
            _, seconds = timed(lambda line=line: subprocess.run(line, check=True, capture_output=True), repeats=1)
            print(f"{command:12} {items:4} items {count:9,} verdicts {' '.join(options)}: {seconds:6.1f} s", flush=True)


def _write(file: Path, items: int, verdicts: int) -> None:
    """Writes votes of a Bradley-Terry model, a tenth of them ties, in the columns of an arena."""
    generator = np.random.default_rng(0)
    score = generator.normal(size=items)
    first = generator.integers(items, size=verdicts)
    second = (first + generator.integers(1, items, size=verdicts)) % items
    won = np.where(generator.random(verdicts) < expit(score[first] - score[second]), "model_a", "model_b")
    winner = np.where(generator.random(verdicts) < 0.1, "tie", won)
    with file.open("w", encoding="utf-8") as lines:
        lines.write("model_a,model_b,winner\n")
        lines.writelines(f"item {a},item {b},{w}\n" for a, b, w in zip(first, second, winner, strict=True))


if __name__ == "__main__":
    main()
