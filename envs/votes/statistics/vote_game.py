"""A table of votes as a finite game, whose responses are the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.votes.statistics.bradley_terry import fit_bradley_terry
from envs.votes.table import Matrix, VoteTable


def vote_game(table: VoteTable, prompts: Sequence[str] = (), smoothing: float = 1.0) -> dict[str, Any]:
    """Returns the game in the form of a finite game's file.

    With N verdicts of a pair, W of them won (a tie is half a win) and p the prediction of the Bradley-Terry fit,
    P = (W + smoothing p) / (N + smoothing). Where the file names prompts, each has a matrix of its own, and p is the P
    of the whole table.

    Args:
        table: the votes.
        prompts: the names of the table's prompts; none: one game, whose prompt is "votes".
        smoothing: verdicts by which a pair leans to the prediction, > 0.

    Raises:
        ValueError: if `smoothing` is not positive.
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing must be positive, so that pairs without verdicts have a P, got {smoothing:g}")
    half = _half_wins(table)
    whole = _smoothed(half, fit_bradley_terry(half).chance(), smoothing)
    if table.prompts is None or not prompts:
        return {"prompts": ["votes"], "responses": list(table.items), "prob": whole.tolist()}
    rows = [np.flatnonzero(table.prompts == x) for x in range(len(prompts))]
    prob = [_smoothed(_half_wins(table, one), whole, smoothing).tolist() for one in rows]
    return {"prompts": list(prompts), "responses": list(table.items), "prob": prob}


def _half_wins(table: VoteTable, rows: np.ndarray | None = None) -> Matrix:
    wins, ties = table.tally(rows)
    return wins + ties / 2


def _smoothed(half: Matrix, prediction: Matrix, smoothing: float) -> Matrix:
    prob = (half + smoothing * prediction) / (half + half.T + smoothing)
    upper = np.triu(prob, 1)  # P + P' = 1 to the last bit
    return upper + np.tril(1 - upper.T, -1) + np.eye(len(prob)) / 2
