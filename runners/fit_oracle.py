"""`python -m runners.fit_oracle`: trains an oracle on comparisons, and measures it on held-out ones."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import tyro

from runners.fitting.fit_settings import FitConfig

PROGRAM = "python -m runners.fit_oracle"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; None: sys.argv.

    Returns:
        0, or 1 after an error that is told in one line.
    """
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(FitConfig, prog=PROGRAM, args=arguments, use_underscores=True)
    out = config.out or Path("runs") / f"oracle-{config.kind}-{datetime.now():%Y%m%d-%H%M%S}"
    from runners.fitting.fit import fit  # torch takes more than a second: --help need not wait for it

    try:
        fit(config, out, shlex.join([*PROGRAM.split(), *arguments]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
