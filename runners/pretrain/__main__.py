"""Makes the embedded models from nothing: `python -m runners.pretrain`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

import tyro

from runners.pretrain.settings import PretrainConfig

PROGRAM = "python -m runners.pretrain"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; None: sys.argv.
    """
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(PretrainConfig, prog=PROGRAM, args=arguments).reduced()
    elsewhere = arguments.index("--out") if "--out" in arguments else len(arguments)
    command = shlex.join([*PROGRAM.split(), *arguments[:elsewhere], *arguments[elsewhere + 2 :]])
    from runners.pretrain.embedded import make_pairrm, make_policy  # torch takes more than a second

    start = time.monotonic()
    if config.only != "pairrm":
        make_policy(config, command)
    if config.only != "policy":
        make_pairrm(config, command)
    print(f"done in {time.monotonic() - start:.0f} s, under {config.out.resolve()}")


if __name__ == "__main__":
    main()
