"""`python -m runners.merge MODEL MODEL ...`: merges models that were trained from one start, into a new folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        from runners.publishing.merged_folder import merge  # torch takes more than a second

        print(merge(options.models, options.base, options.out, options.method, options.weights, options.density))

    return exit_code(command, "interrupted; the same command begins again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.merge", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        type=Path,
        help="run directories, whose last saved policies are taken, or transformers directories",
    )
    parser.add_argument("--base", required=True, metavar="DIR", help="what they were trained from, or tiny")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="new transformers directory")
    parser.add_argument(
        "--method",
        choices=("arithmetic", "ties"),
        default="arithmetic",
        help="weighted sum of the changes, or mean of the large ones that agree in sign (default: arithmetic)",
    )
    parser.add_argument(
        "--weights", metavar="W", nargs="+", type=float, help="one for each model (default: alike, sum 1)"
    )
    parser.add_argument("--density", metavar="D", type=float, help="share of a change that ties keeps (default: 0.2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
