"""Real votes to play on: the items of a file of votes as a finite task, and the votes as its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from envs.tasks.finite import finite_task
from envs.tasks.task import Task
from envs.votes.options import ReadOptions
from envs.votes.statistics.vote_game import POOLED, vote_chances
from envs.votes.vote_files import load_votes
from oracles.table import TableOracle

if TYPE_CHECKING:
    from envs.tasks.tokenizers import Tokenizer
    from envs.votes.rows import Reading
    from envs.votes.table import VoteTable

MOST_ITEMS = 2**11
"""Items of a file that is played on: a matrix of all pairs is kept for each prompt that is asked about."""
_NAMED = 3


@dataclass(frozen=True)
class _VoteFile:
    """A file of votes and the way that it is read."""

    path: str
    """Votes between items, in any layout of docs/data.md that names two items and who won."""
    format: str | None = None
    """The file's format; None: by its fields."""
    fields: str | None = None
    """Fields of another layout: "first=a,second=b,winner=c,first_wins=1,second_wins=0"."""
    split: str | None = None
    """The split of a dataset's directory; None: its only one, or "train"."""
    strict: bool = False
    """Stop at a row that can't be used; otherwise it is skipped, counted and named."""

    def read(self) -> tuple[VoteTable, Reading]:
        """Reads the votes.

        Raises:
            ValueError: if the file is no file of votes, or has more than `MOST_ITEMS` items.
            OSError: if it can't be read.
        """
        if not self.path:
            raise ValueError("name a file of votes: --oracle votes --oracle.file FILE, or --task votes:FILE")
        table, reading = load_votes(self.path, ReadOptions(self.format, self.fields, self.split, self.strict))
        if len(table.items) > MOST_ITEMS:
            raise ValueError(
                f"{self.path}: compares {len(table.items):,} items, more than {MOST_ITEMS:,}; a game over its items "
                f"takes a file whose rows name models or policies, not one of many different texts"
            )
        return table, reading


@dataclass(frozen=True)
class VotesTaskConfig(_VoteFile):
    """The items of a file of votes as responses, its prompts as prompts."""

    finite: ClassVar[bool] = True
    pooled: bool = False
    """Pool the votes of all prompts; otherwise a prompt that the file names is a game of its own."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Lists the items and the prompts.

        Raises:
            ValueError: if the file is no file of votes, or a tokenizer is given.
            OSError: if it can't be read.
        """
        if tokenizer is not None:
            raise ValueError(f"task '{self.path}' lists its responses in a vocabulary of its own; leave tokenizer out")
        table, reading = self.read()
        prompts = [POOLED] if self.pooled or not reading.prompts else reading.prompts
        return finite_task(f"votes:{self.path}", prompts, table.items, table.items)


@dataclass(frozen=True)
class VotesConfig:
    """Real votes: P is the share of their verdicts that the first item won, smoothed."""

    file: str = ""
    """Votes between the task's responses, in any layout of docs/data.md that names two items and who won."""
    smoothing: float = 1.0
    """Verdicts, > 0, by which each pair leans to the Bradley-Terry prediction (of all votes; a prompt's pairs lean to
    the pair's P over all prompts): P = (wins + smoothing prediction) / (verdicts + smoothing), a tie half a win."""
    format: str | None = None
    """The file's format; None: by its fields."""
    fields: str | None = None
    """Fields of another layout: "first=a,second=b,winner=c,first_wins=1,second_wins=0"."""
    split: str | None = None
    """The split of a dataset's directory; None: its only one, or "train"."""
    strict: bool = False
    """Stop at a row that can't be used; otherwise it is skipped, counted and named."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> VoteOracle:
        """Reads the file, and checks that it has the task's prompts and responses.

        Raises:
            ValueError: if the file is no file of votes or lacks one of the task's texts, or `smoothing` is
                not positive.
            OSError: if it can't be read.
        """
        del device  # a table stays on the CPU
        table, reading = _VoteFile(self.file, self.format, self.fields, self.split, self.strict).read()
        oracle = VoteOracle(table, reading.prompts, self.smoothing, self.file)
        try:
            oracle.table.rows(prompts or ())
            oracle.table.columns(responses or ())
        except ValueError as error:
            raise ValueError(f"{self.file}: {error} Its items are the responses of --task votes:{self.file}") from error
        return oracle


class VoteOracle:
    """Answers by the votes of a table: on its prompts by each prompt's votes, on the prompt "votes" by all.

    Args:
        votes: the table.
        prompts: the names of its prompts; none: all votes are about one prompt, "votes".
        smoothing: see `VotesConfig`, > 0.
        name: of the file, for the description.

    Attributes:
        table: the probabilities.
        never_compared: pairs of items without a verdict under any prompt; their P is the Bradley-Terry prediction.

    Raises:
        ValueError: if `smoothing` is not positive.
    """

    antisymmetric = True

    def __init__(
        self, votes: VoteTable, prompts: Sequence[str] = (), smoothing: float = 1.0, name: str = "votes"
    ) -> None:
        whole, of_prompt = vote_chances(votes, smoothing)
        named = list(prompts) if votes.prompts is not None else []
        games = named if POOLED in named else [*named, POOLED]

        def matrix(index: int) -> Tensor:
            return torch.from_numpy(of_prompt(index) if index < len(named) else whole)

        self.table = TableOracle(matrix, games, votes.items)
        wins, ties = votes.tally()
        empty = np.argwhere(np.triu(wins + wins.T + ties == 0, 1))
        self.never_compared = [(votes.items[i], votes.items[j]) for i, j in empty.tolist()]
        pairs = len(votes.items) * (len(votes.items) - 1) // 2
        self.description = (
            f"votes {Path(name).name}: {len(votes):,} votes, {len(votes.items)} items, {max(len(named), 1)} prompts, "
            f"smoothing {smoothing:g}; {self._gaps(pairs)}"
        )

    def _gaps(self, pairs: int) -> str:
        count = len(self.never_compared)
        if not count:
            return f"all {pairs:,} pairs were compared"
        some = ", ".join(f"{a} - {b}" for a, b in self.never_compared[:_NAMED]) + (", ..." if count > _NAMED else "")
        return f"{count:,} of {pairs:,} pairs never compared, their P is Bradley-Terry's prediction ({some})"

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] float64, P(first beats second | prompt).

        Raises:
            ValueError: for a prompt or an item that the file lacks.
        """
        return self.table.prob(prompts, first, second)

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L] float64, equal to `prob` on every pair."""
        return self.table.payoff(prompts, left, right)
