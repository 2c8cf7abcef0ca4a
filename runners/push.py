"""`python -m runners.push RUN OWNER/NAME`: publishes a run's policy on the Hugging Face hub, with a model card."""

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
        from runners.publishing.hub import require_repository, upload  # torch takes more than a second
        from runners.publishing.model_card import model_card, read_saved_policy

        require_repository(options.repository)
        saved = read_saved_policy(options.run)
        card = model_card(saved, options.repository.rpartition("/")[2], options.base_model, options.license)
        if options.dry_run:
            print(card)
            return
        print(upload(saved, card, options.repository, options.private))

    return exit_code(command, "interrupted; the same command begins again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.push", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory, whose last saved policy is published")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the hub; its files are replaced")
    parser.add_argument("--license", metavar="ID", help="license on the card, such as apache-2.0 (default: none named)")
    parser.add_argument(
        "--base_model", metavar="OWNER/NAME", help="model on the hub that it was trained from (default: --policy's)"
    )
    parser.add_argument("--private", action="store_true", help="makes a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="prints the card and uploads nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
