"""`python -m runners.plot RUN [RUN ...]`: draws the curves of runs from their metrics.jsonl."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns 0, or 1 after an error told in one line."""
    parser = argparse.ArgumentParser(prog="python -m runners.plot", description="Draws the curves of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="picture to write (default: curves.png)")
    parser.add_argument("--x", choices=("steps", "queries"), default="steps", help="what stands on x (default: steps)")
    options = parser.parse_args(arguments)
    from runners.run.curves import draw, read_curves

    try:
        draw(read_curves(options.runs), options.out, options.x)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
