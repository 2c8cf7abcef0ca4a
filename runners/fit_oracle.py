"""`python -m runners.fit_oracle`: trains an oracle on comparisons, and measures it on held-out ones."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import tyro

from runners.fitting.fit_settings import FitConfig
from runners.run.cli import exit_code

PROGRAM = "python -m runners.fit_oracle"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; None: sys.argv.

    Returns:
        The exit code, see `exit_code`.
    """
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(FitConfig, prog=PROGRAM, args=arguments, use_underscores=True)
    out = config.out or Path("runs") / f"oracle-{config.kind}-{datetime.now():%Y%m%d-%H%M%S}"

    def command() -> None:
        from runners.fitting.fit import fit  # torch takes more than a second: --help need not wait for it

        fit(config, out, shlex.join([*PROGRAM.split(), *arguments]))

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
