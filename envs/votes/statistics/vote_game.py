"""A table of votes as a finite game, whose responses are the items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs.votes.statistics.bradley_terry import fit_bradley_terry
from envs.votes.table import Matrix, VoteTable

POOLED = "votes"
"""The prompt of a game over all votes of a table."""


def vote_game(table: VoteTable, prompts: Sequence[str] = (), smoothing: float = 1.0) -> dict[str, Any]:
    """Returns the game in the form of a finite game's file.

    With N verdicts of a pair, W of them won (a tie is half a win) and p the prediction of the Bradley-Terry fit,
    P = (W + smoothing p) / (N + smoothing). Where the file names prompts, each has a matrix of its own, and p is the P
    of the whole table.

    Args:
        table: the votes.
        prompts: the names of the table's prompts; none: one game, whose prompt is `POOLED`.
        smoothing: verdicts by which a pair leans to the prediction, > 0.

    Raises:
        ValueError: if `smoothing` is not positive.
    """
    whole, of_prompt = vote_chances(table, smoothing)
    if table.prompts is None or not prompts:
        return {"prompts": [POOLED], "responses": list(table.items), "prob": whole.tolist()}
    prob = [of_prompt(x).tolist() for x in range(len(prompts))]
    return {"prompts": list(prompts), "responses": list(table.items), "prob": prob}


def vote_chances(table: VoteTable, smoothing: float = 1.0) -> tuple[Matrix, Callable[[int], Matrix]]:
    """Returns the [n, n] P of the whole table, and a function that gives the P of a prompt by its index.

    Args:
        table: the votes.
        smoothing: see `vote_game`.

    Raises:
        ValueError: if `smoothing` is not positive.
    """
    if not 0 < smoothing < math.inf:
        raise ValueError(f"smoothing must be positive, so that pairs without verdicts have a P, got {smoothing:g}")
    half = _half_wins(table)
    whole = _smoothed(half, fit_bradley_terry(half).chance(), smoothing)

    def of_prompt(prompt: int) -> Matrix:
        assert table.prompts is not None
        return _smoothed(_half_wins(table, np.flatnonzero(table.prompts == prompt)), whole, smoothing)

    return whole, of_prompt


def _half_wins(table: VoteTable, rows: np.ndarray | None = None) -> Matrix:
    wins, ties = table.tally(rows)
    return wins + ties / 2


def _smoothed(half: Matrix, prediction: Matrix, smoothing: float) -> Matrix:
    prob = (half + smoothing * prediction) / (half + half.T + smoothing)
    upper = np.triu(prob, 1)  # P + P' = 1 to the last bit
    return upper + np.tril(1 - upper.T, -1) + np.eye(len(prob)) / 2
