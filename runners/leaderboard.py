"""`python -m runners.leaderboard FILE`: Bradley-Terry points of a table of votes with their intervals, at once."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.auditing.vote_options import add_vote_options, read
from runners.run.cli import exit_code

START = 1000.0
POINTS = 400 / math.log(10)
"""Points of a nat: 400 points are odds of ten to one, as Elo's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    parser = argparse.ArgumentParser(
        prog="python -m runners.leaderboard", description=(__doc__ or "").split(": ", 1)[1]
    )
    add_vote_options(parser)
    parser.add_argument("--draws", type=int, default=200, help="resampled tables of the intervals (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the draws (default: 0)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _rank(options))


def _rank(options: argparse.Namespace) -> None:
    import numpy as np

    from envs.votes.statistics.bootstrap import interval, resample
    from envs.votes.statistics.bradley_terry import fit_bradley_terry

    if options.draws < 2:
        raise ValueError(f"--draws must be at least 2, got {options.draws}")
    table, reading = read(options)
    wins, ties = table.tally()
    half = wins + ties / 2
    scores = fit_bradley_terry(half)
    won, tied = resample(table, wins, ties, options.draws, np.random.default_rng(options.seed))
    low, high = interval(fit_bradley_terry(won + tied / 2).score)
    verdicts = half.sum(0) + half.sum(1)
    order = np.lexsort((-scores.score, scores.component)).tolist()
    rows = [
        (
            table.items[i],
            *(START + POINTS * part[i] for part in (scores.score, low, high)),
            round(verdicts[i]),
            half[i].sum() / max(verdicts[i], 1),
        )
        for i in order
    ]
    width = max(map(len, table.items))
    print(f"      {'':{width}s}  points  95 % interval   verdicts  won")
    for k, (i, (name, points, below, above, count, share)) in enumerate(zip(order, rows, strict=True), start=1):
        mark = "*" if scores.held[i] else " "
        print(f"{k:4d}  {name:{width}s}{mark} {points:6.0f}  [{below:4.0f}, {above:4.0f}]  {count:9,d}  {share:.1%}")
    if scores.held.any():
        print("* won or lost everything against the rest: held by half a win and half a loss against an average item")
    if (groups := int(scores.component.max()) + 1) > 1:
        print(
            f"The items fall into {groups} groups that were never compared: points of different groups don't compare."
        )
    print(reading)
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("item", "points", "low", "high", "verdicts", "won"), *rows])


if __name__ == "__main__":
    sys.exit(main())
