"""`python -m runners.audit FILE`: whether one score per item explains a table of votes, and which ranking stands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.auditing.vote_options import add_vote_options, read
from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _audit(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.audit", description=(__doc__ or "").split(": ", 1)[1])
    add_vote_options(parser)
    parser.add_argument(
        "--label", metavar="FIELD", help="field of a row, such as its aspect: audit each value alone too"
    )
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page, its pictures and CSV beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--draws", type=int, default=999, help="tables of the test and the bootstrap (default: 999)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the draws (default: 0)")
    parser.add_argument("--game", type=Path, metavar="FILE", help="write the table as a finite game, to play on")
    parser.add_argument("--smoothing", type=float, default=1.0, help="verdicts by which --game leans to the model (1)")
    return parser


def _audit(options: argparse.Namespace) -> None:
    from envs.votes.statistics.audit import audit
    from envs.votes.statistics.labels import audit_labels
    from envs.votes.statistics.vote_game import vote_game
    from runners.auditing.audit_page import write_page
    from runners.auditing.audit_summary import MOST, label_lines, sentences, table
    from runners.run.record import write_whole

    if options.draws < 19:
        raise ValueError(f"--draws must be at least 19, so that a p-value can reach .05, got {options.draws}")
    votes, reading = read(options, options.label)
    result = audit(votes, draws=options.draws, seed=options.seed)
    labels = audit_labels(votes, reading.labels, result.widening, options.draws, options.seed)
    lines = label_lines(labels)
    print("\n".join(sentences(result)), *table(result, MOST - len(lines)), *lines, reading, sep="\n")
    if options.json is not None:
        numbers = result.as_dict() | {"labels": [label.as_dict() for label in labels]}
        write_whole(options.json, json.dumps(numbers, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"Numbers: {options.json}")
    if options.html is not None:
        print(f"Page:    {write_page(result, options.html, options.file, labels)}")
    if options.game is not None:
        game = vote_game(votes, reading.prompts, options.smoothing)
        write_whole(options.game, json.dumps(game, ensure_ascii=False) + "\n")
        print(f"Play:    python -m runners.duel --task {options.game} --oracle table --oracle.path {options.game}")


if __name__ == "__main__":
    sys.exit(main())
