"""The options of commands that read a table of votes."""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.votes.rows import Reading
    from envs.votes.table import VoteTable

EXAMPLE = "example"


def add_vote_options(parser: argparse.ArgumentParser) -> None:
    """Adds the file and how it is read."""
    parser.add_argument("file", metavar="FILE", help=f"votes (docs/data.md lists the formats), or '{EXAMPLE}'")
    add_read_options(parser)


def add_read_options(parser: argparse.ArgumentParser, split: str = "split") -> None:
    """Adds how a file of votes is read; `split` is the attribute that holds --data.split."""
    parser.add_argument("--data.format", dest="format", help="format of the file (default: told by its fields)")
    parser.add_argument("--data.fields", dest="fields", help="fields of another layout: first=a,second=b,winner=c,...")
    parser.add_argument("--data.split", dest=split, help="split of a directory of datasets")
    parser.add_argument("--data.strict", dest="strict", action="store_true", help="stop at a row that can't be used")


def read(options: argparse.Namespace, label: str | None = None) -> tuple[VoteTable, Reading]:
    """Returns the votes, those of a field labelled by it, and what was read of the file and what was not."""
    from envs.votes.options import ReadOptions
    from envs.votes.vote_files import load_votes

    path = str(files("runners.auditing") / "example.csv") if options.file == EXAMPLE else options.file
    return load_votes(path, ReadOptions(options.format, options.fields, options.split, options.strict), label)
