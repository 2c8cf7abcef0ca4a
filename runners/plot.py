"""`python -m runners.plot RUN [RUN ...]`: draws the curves of runs from their metrics.jsonl."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit code, see `exit_code`."""
    parser = argparse.ArgumentParser(prog="python -m runners.plot", description="Draws the curves of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    where = "picture to write (default: RUN/curves.png, of several runs curves.png here)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--x", choices=("steps", "queries"), default="steps", help="what stands on x (default: steps)")
    options = parser.parse_args(arguments)

    def command() -> None:
        from runners.run.curves import draw, read_curves

        out = options.out or Path(options.runs[0] if len(options.runs) == 1 else ".") / "curves.png"
        draw(read_curves(options.runs), out, options.x)
        print(out)

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
