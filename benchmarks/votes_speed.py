"""`python -m benchmarks.votes_speed`: seconds of whole commands on simulated votes, start and reading included.

By the clock and of the processor, which are about the same on an idle machine.
"""

from __future__ import annotations

import argparse
import resource
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
    ("audit", 200, 10_000, ("--draws", "999")),
    ("audit", 200, 200_000, ("--draws", "999")),
    ("leaderboard", 70, 33_000, ("--draws", "200")),
    ("leaderboard", 70, 1_000_000, ("--draws", "200")),
)
"""Command, items, verdicts and options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of verdicts (default: 1)")
    parser.add_argument("--only", choices=sorted({command for command, *_ in CASES}), help="one of the commands")
    parser.add_argument("--items", type=int, help="the cases with as many items alone")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for command, items, verdicts, flags in CASES:
            if options.only not in (None, command) or options.items not in (None, items):
                continue
            file = Path(folder) / "votes.csv"
            count = int(options.scale * verdicts)
            _write(file, items, count)
            line = [sys.executable, "-m", f"runners.{command}", str(file), *flags]
            before = _processor()
            _, seconds = timed(lambda line=line: subprocess.run(line, check=True, capture_output=True), repeats=1)
            case = f"{command:12} {items:4} items {count:9,} verdicts {' '.join(flags)}"
            print(f"{case}: {seconds:6.1f} s, {_processor() - before:.1f} s of the processor", flush=True)


def _processor() -> float:
    """Returns the processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
