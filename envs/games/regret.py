"""Dueling-bandit regrets of a log of duels, and queries until a gap has closed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.games.validation import require_game

_ROWS = 4096


def von_neumann_regret(payoff: Tensor, first: Tensor, second: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Returns the cumulative regret against the best fixed response to each prompt in hindsight.

    R_t = sum over prompts of max_a sum over its duels so far of [A(a, first) + A(a, second)] / 2, A = P - 1/2: the
    excess over one half of the best comparator's win rate against the played responses (Dudik et al. 2015,
    arXiv:1502.06362). With one prompt R_T / T is the exploitability of the average response.

    Args:
        payoff: [N, N] or [B, N, N] chances that the row beats the column.
        first: [T] integers, the first response of each duel.
        second: [T] integers likewise.
        prompts: [T] integers, the prompt of each duel; may be left out for one game.

    Returns:
        [T] float64.

    Raises:
        ValueError: if `payoff` is no preference game or an index is out of range.
    """
    games, rows, first, second = _log(payoff, first, second, prompts)
    change = torch.zeros(len(first), dtype=torch.float64)
    for b in rows.unique().tolist():
        times = (rows == b).nonzero()[:, 0]
        total, best = torch.zeros(games.shape[-1], dtype=torch.float64), 0.0
        for part in times.split(_ROWS):
            gains = (games[b][:, first[part]] + games[b][:, second[part]] - 1).mT / 2
            sums = total + gains.cumsum(0)
            bests = sums.amax(-1)
            change[part] = bests.diff(prepend=bests.new_tensor([best]))
            total, best = sums[-1], float(bests[-1])
    return change.cumsum(0)


def copeland_regret(payoff: Tensor, first: Tensor, second: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Returns the cumulative regret in Copeland scores, the share of the other responses that one beats.

    Each duel costs score* - (score(first) + score(second)) / 2 (Zoghi et al. 2015, arXiv:1506.00312, who count twice
    that); a tie counts one half. Arguments, result and errors: `von_neumann_regret`.
    """
    games, rows, first, second = _log(payoff, first, second, prompts)
    wins = (torch.sign(games - 0.5) + 1) / 2
    return _score_regret((wins.sum(-1) - 0.5) / max(games.shape[-1] - 1, 1), rows, first, second)


def borda_regret(payoff: Tensor, first: Tensor, second: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Returns the cumulative regret in Borda scores, the mean chance to beat another response.

    Each duel costs score* - (score(first) + score(second)) / 2 (Saha et al. 2021, arXiv:2010.14563).
    Arguments, result and errors: `von_neumann_regret`.
    """
    games, rows, first, second = _log(payoff, first, second, prompts)
    return _score_regret((games.sum(-1) - 0.5) / max(games.shape[-1] - 1, 1), rows, first, second)


def queries_to(queries: Sequence[float], gaps: Sequence[float], share: float = 0.1) -> float | None:
    """Returns the number of oracle queries until the gap was first at most `share` of the initial one.

    Args:
        queries: queries asked up to each measurement, ascending; the first belongs to the start.
        gaps: the gap at each measurement.
        share: of the first gap, in (0, 1).

    Returns:
        A number of queries; None if the gap never closed that far.

    Raises:
        ValueError: if the lists differ in length or are empty, or `share` is out of range.
    """
    if len(queries) != len(gaps) or len(gaps) == 0:
        raise ValueError(f"one gap for each number of queries is needed, got {len(gaps)} and {len(queries)}")
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), got {share:g}")
    return next((count for count, gap in zip(queries, gaps, strict=True) if gap <= share * gaps[0]), None)


def _log(
    payoff: Tensor, first: Tensor, second: Tensor, prompts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    games = require_game(payoff).cpu()
    if games.ndim == 3 and len(games) > 1 and prompts is None:
        raise ValueError(f"{len(games)} games were given: pass the prompt of each duel")
    games = games.reshape(-1, *games.shape[-2:])
    first, second = torch.as_tensor(first).cpu(), torch.as_tensor(second).cpu()
    rows = torch.zeros_like(first) if prompts is None else torch.as_tensor(prompts).cpu()
    for name, index, count in (
        ("first", first, games.shape[-1]),
        ("second", second, games.shape[-1]),
        ("prompts", rows, len(games)),
    ):
        if index.shape != first.shape or index.ndim != 1 or index.is_floating_point():
            raise ValueError(f"{name} must hold one integer for each duel, got {tuple(index.shape)} {index.dtype}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
            raise ValueError(f"{name} must lie in 0..{count - 1}, got {int(index.min())}..{int(index.max())}")
    return games, rows, first, second


def _score_regret(scores: Tensor, rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    best = scores.amax(-1)[rows]
    return (best - (scores[rows, first] + scores[rows, second]) / 2).cumsum(0)
