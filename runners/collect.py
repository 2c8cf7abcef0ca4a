"""`python -m runners.collect POLICY POLICY`: people compare policies in the browser, for `runners.audit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    options = vars(_parser().parse_args(arguments))

    def command() -> int:
        from runners.evaluation.human_votes import Options, collect  # torch takes more than a second

        return collect(Options(tuple(options.pop("policies")), **options))

    return exit_code(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.collect", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument(
        "policies",
        metavar="POLICY",
        nargs="+",
        help="two or more: run directories, transformers directories or hub ids, or names such as tiny",
    )
    parser.add_argument("--task", help="chat, FILE.jsonl of prompts, ... (default: that of the runs)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="votes to write, as JSON lines")
    parser.add_argument("--prompts", type=int, default=20, help="held-out prompts at most (default: 20)")
    parser.add_argument("--draws", type=int, default=1, help="responses of each policy for each prompt (default: 1)")
    parser.add_argument("--people", type=int, default=1, help="persons that judge each pair (default: 1)")
    parser.add_argument("--host", default="127.0.0.1", help="interface of the page; 0.0.0.0: all, with a token")
    parser.add_argument("--port", type=int, default=8765, help="port of the page; 0: any that is free (default: 8765)")
    parser.add_argument("--grace", type=float, default=3.0, help="seconds in which the last verdict may be undone (3)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of responses and order (default: 0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    parser.add_argument("--finish", action="store_true", help="write the verdicts given so far, and ask for no more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
