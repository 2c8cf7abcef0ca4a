"""`python -m runners.evaluate RUN [RUN ...]`: what runs have learned, under their own oracle or any other."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from oracles.registry import require_oracle
from preference_duel.names import UnknownNameError
from runners.evaluation.options import AVERAGE, LAST, Options
from runners.run.cli import TRACEBACK


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns 0, 1 after an error and 2 after an unknown name, both told in one line."""
    try:
        options = _parse(arguments)
        for oracle in options.oracles:
            require_oracle(oracle.split(",")[0])
        from runners.evaluation.output import evaluate  # torch takes more than a second: a wrong name need not wait

        evaluate(options)
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
