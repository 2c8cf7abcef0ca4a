"""`python -m runners.overoptimise RUN [RUN ...] --gold ORACLE`: over-optimisation of a learned reward."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from oracles.registry import require_oracle
from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        require_oracle(options.gold.split(",")[0])
        from runners.evaluation.overoptimisation.gain_report import overoptimise  # imports torch

        overoptimise(options)

    return exit_code(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runners.overoptimise",
        description="Compares, along the checkpoints of runs, the reward that they maximised with a gold oracle's.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="run directories of one task, pooled into one curve"
    )
    parser.add_argument("--gold", required=True, metavar="NAME[,FIELD=VALUE...]", help="the judge, such as pairrm")
    parser.add_argument(
        "--test-reward",
        metavar="FOLDER",
        nargs="+",
        help="reward model of other data (runners.fit_oracle --kind bt), one for all runs or one for each",
    )
    parser.add_argument("--corpus", metavar="FILE", help="demonstrations whose log loss is followed (alignment tax)")
    parser.add_argument("--prompts", type=_at_least(1), default=64, help="held-out prompts at most (default: 64)")
    parser.add_argument("--draws", type=_at_least(2), default=4, help="samples per prompt of free text (default: 4)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="random seed of the samples (default: 0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device of networks")
    parser.add_argument(
        "--picture", metavar="FILE", type=Path, help="PNG (default: overoptimisation.png in the first run)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="file for the results")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
