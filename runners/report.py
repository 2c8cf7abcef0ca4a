"""`python -m runners.report DIR`: a benchmark's results as one page that can be read and cited."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runners.benchmark.suites import BUILT_IN
from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    parser = argparse.ArgumentParser(prog="python -m runners.report", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("dir", metavar="DIR", help="of a benchmark, or the name of a published suite")
    parser.add_argument("--out", type=Path, help="folder of the page (default: DIR/report, or report/SUITE)")
    parser.add_argument(
        "--entrants", nargs="+", metavar="NAME", help="entrants that pictures show (default: all, or a dozen of more)"
    )
    options = parser.parse_args(arguments)

    def command() -> None:
        from runners.benchmark.report.page import write  # torch takes more than a second: --help need not wait for it

        results, default = find(options.dir)
        print(write(results, options.out or default, options.entrants))

    return exit_code(command)


def find(name: str) -> tuple[dict[str, Any], Path]:
    """Returns the results of a folder or of a published suite, and where their report goes.

    Raises:
        ValueError: if there are none.
        OSError: if they can't be read.
    """
    from runners.benchmark.results import published, read_results

    path = Path(name) / "results.json"
    if name in BUILT_IN and not path.exists():
        if not published(name).exists():
            raise ValueError(f"no results of suite '{name}' were published; run python -m runners.bench --suite {name}")
        return read_results(published(name)), Path("report") / name
    if not path.exists():
        raise ValueError(f"{path} does not exist; python -m runners.bench --dir {name} writes it at its end")
    return read_results(path), Path(name) / "report"


if __name__ == "__main__":
    sys.exit(main())
