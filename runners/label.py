"""`python -m runners.label POLICY ... --oracle NAME --out FILE`: labels pairs of responses by any oracle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oracles.registry import require_oracle
from runners.auditing.vote_options import add_read_options
from runners.run.cli import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`."""
    options = vars(_parser().parse_args(arguments))

    def command() -> int:
        require_oracle(options["oracle"].split(",")[0])
        from envs.votes.options import ReadOptions
        from runners.evaluation.labelling import Options, label  # torch takes more than a second

        reading = ReadOptions(*(options.pop(name) for name in ("format", "fields", "data_split", "strict")))
        return label(Options(policies=tuple(options.pop("policies")), reading=reading, **options))

    return exit_code(command, "\nstopped: the same command goes on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runners.label",
        description="Labels pairs of responses by any oracle, and compares an oracle with people's verdicts.",
    )
    parser.add_argument(
        "policies",
        metavar="POLICY",
        nargs="*",
        help="policies that respond: run directories, transformers directories or hub ids, or names such as tiny",
    )
    parser.add_argument("--responses", metavar="FILE", help="prompts with responses instead: prompt, responses")
    parser.add_argument("--against", metavar="FILE", help="verdicts (docs/data.md) to compare the oracle with instead")
    parser.add_argument("--oracle", required=True, metavar="NAME[,FIELD=VALUE...]", help="such as pairrm or bt,seed=1")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="preferences to write, as JSON lines")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of --against")
    parser.add_argument("--task", help="chat, FILE.jsonl of prompts, ... (default: that of the runs)")
    parser.add_argument("--split", choices=("train", "held_out"), default="train", help="prompts of the task (train)")
    parser.add_argument("--prompts", type=int, default=100, help="prompts at most (default: 100)")
    parser.add_argument("--draws", type=int, default=2, help="responses of each policy for each prompt (default: 2)")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs asked at once, which a kill may lose (32)")
    parser.add_argument("--margin", type=float, default=0.0, help="P within it of 1/2 is a tie of the oracle (0)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the responses (default: 0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    add_read_options(parser, split="data_split")
    return parser


if __name__ == "__main__":
    sys.exit(main())
