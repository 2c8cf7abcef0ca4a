"""`python -m runners.evaluate RUN [RUN ...]`: measures finished runs under their own oracle or any other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oracles.registry import require_oracle
from runners.evaluation.options import AVERAGE, BEAM, LAST, Options
from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""

    def command() -> None:
        options = _parse(arguments)
        for oracle in options.oracles:
            require_oracle(oracle.split(",")[0])
        from runners.evaluation.output import evaluate  # imports torch, which takes more than a second

        evaluate(options)

    return exit_code(command)


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
        help="oracles, such as bt or cyclic,lam=0.75; several give the transfer table (default: the runs' own)",
    )
    parser.add_argument("--tau", type=float, help="KL coefficient of the regularised game (default: each run's own)")
    parser.add_argument(
        "--policy", choices=(LAST, AVERAGE), default=LAST, help="policy of each run in the cross-play (default: last)"
    )
    parser.add_argument(
        "--decode",
        choices=(BEAM,),
        help="also measure the response that beam search by the last policy's log pi/ref finds to each prompt",
    )
    parser.add_argument("--width", type=int, help="beginnings that stay in the beam (default: 5)")
    parser.add_argument(
        "--tokens",
        metavar="N",
        nargs="?",
        type=int,
        const=4,
        default=0,
        help="also show tau log pi/ref of each token of a sample to each of N prompts (alone: 4)",
    )
    parser.add_argument("--prompts", type=int, default=128, help="maximum number of held-out prompts (default: 128)")
    parser.add_argument("--pairs", type=int, default=4, help="samples per prompt; ignored on finite tasks (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the samples (default: 0)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device of networks (default: auto)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: RUN/evaluation, or evaluations/TIME for several runs)"
    )
    values = vars(parser.parse_args(arguments))
    return Options(tuple(values.pop("runs")), tuple(values.pop("oracles")), **values)


if __name__ == "__main__":
    sys.exit(main())
