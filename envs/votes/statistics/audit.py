"""The audit of a table of votes: does one score per item explain them, and which ranking stands?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.votes.statistics import vote_rankings
from envs.votes.statistics.annotators import Agreement, Order, agreement, order_effect
from envs.votes.statistics.bootstrap import Bootstrap, interval, spread_of_clusters
from envs.votes.statistics.bradley_terry import Scores, fit_bradley_terry, fit_davidson
from envs.votes.statistics.fit_test import FitTest, Triads, fit_test, fit_test_within_prompts, posterior
from envs.votes.statistics.share import Share, excess_and_variance, intransitive_share, simulation_at_share
from envs.votes.table import Matrix, VoteTable

_WIDTH = 0.05
_TIMES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Ranking:
    """One number per item with a 95 % bootstrap interval, in the order of the table's items.

    Attributes:
        value: [n] numbers; higher is better.
        low: [n] lower end.
        high: [n] upper end.
    """

    value: Matrix
    low: Matrix
    high: Matrix


@dataclass(frozen=True)
class Audit:
    """The audit of a table of votes.

    Attributes:
        table: the votes.
        wins: [n, n] decided verdicts that the row won.
        ties: [n, n] ties.
        preference: [n, n] shares, unseen pairs filled as `vote_rankings.preferences` says.
        scores: Bradley-Terry scores, ties as half wins.
        fit: the test of one score per item.
        within: the same test with scores of their own in each prompt; None if the file names one prompt or none.
        share: the intransitive share.
        triads: cycles of three.
        bradley_terry: scores in nats.
        copeland: items beaten.
        lottery: mass of the maximal lottery; the interval is over `LOTTERY_DRAWS` tables.
        support: [n] how often an item is in the lottery's support over these.
        top: [n] members of the top cycle.
        top_frequency: [n] how often each is in it over the bootstrap.
        elo: points in the file's order; the ends are the least and the most over random orders.
        order: the order effect.
        tie_share: share of ties.
        nu: Davidson's parameter; infinite if all are ties.
        agreement: None if the file names no annotators.
        widening: factor by which the annotators (or prompts) widen the share's interval; 1 if unnamed.
        ask: pairs whose verdicts say most about the lottery, most first.
        times: how many times the verdicts are needed until the share is known within .05; None if more than 64.
    """

    table: VoteTable
    wins: Matrix
    ties: Matrix
    preference: Matrix
    scores: Scores
    fit: FitTest
    within: FitTest | None
    share: Share
    triads: Triads
    bradley_terry: Ranking
    copeland: Ranking
    lottery: Ranking
    support: Matrix
    top: NDArray[np.bool_]
    top_frequency: Matrix
    elo: Ranking
    order: Order
    tie_share: float
    nu: float
    agreement: Agreement | None
    widening: float
    ask: Sequence[tuple[str, str]]
    times: int | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers under stable names, ready for JSON; None stands for a number that doesn't exist."""
        items = self.table.items
        rows = {
            "bradley_terry": self.bradley_terry,
            "lottery": self.lottery,
            "copeland": self.copeland,
            "elo": self.elo,
        }
        numbers = {
            "items": list(items),
            "verdicts": len(self.table),
            "fit": vars(self.fit),
            "fit_within_prompts": None if self.within is None else vars(self.within),
            "share": vars(self.share),
            "triads": {
                "seen": self.triads.seen,
                "expected": self.triads.expected,
                "p_value": self.triads.p_value,
                "sure": [list(cycle) for cycle in self.triads.sure],
            },
            "rankings": {name: _by_item(items, ranking.value) for name, ranking in rows.items()},
            "intervals": {
                name: {item: [float(r.low[i]), float(r.high[i])] for i, item in enumerate(items)}
                for name, r in rows.items()
            },
            "top_cycle": [item for item, member in zip(items, self.top, strict=True) if member],
            "support": _by_item(items, self.support),
            "order": {"first_wins": self.order.first_wins, "low": self.order.low, "high": self.order.high},
            "ties": {"share": self.tie_share, "nu": self.nu},
            "annotators": None if self.agreement is None else vars(self.agreement),
            "ask": [list(pair) for pair in self.ask],
            "times": self.times,
        }
        return finite(numbers)


def audit(table: VoteTable, *, draws: int = 999, seed: int = 0) -> Audit:
    """Audits a table of votes.

    Args:
        table: at least one verdict.
        draws: tables of the fit test and of the bootstrap.
        seed: of all draws.

    Returns:
        Tests, shares and rankings with their intervals.

    Raises:
        ValueError: if the table has no verdicts.
    """
    if len(table) == 0:
        raise ValueError("the table has no verdicts")
    streams = np.random.SeedSequence(seed).spawn(4)
    testing, resampling, ordering = (np.random.default_rng(stream) for stream in streams[:3])
    wins, ties = table.tally()
    fit, triads = fit_test(table.items, wins, draws, testing)
    bootstrap = Bootstrap(table, wins, ties, draws, resampling)
    widening = spread_of_clusters(table, wins, ties, bootstrap)
    scores = fit_bradley_terry(wins + ties / 2)
    preference = vote_rankings.preferences(wins, ties)
    lottery = vote_rankings.maximal_lottery(preference)
    decided = float(wins.sum())
    points = vote_rankings.elo(table, ordering)
    seed_of_share = int(streams[3].generate_state(1)[0])
    return Audit(
        table=table,
        wins=wins,
        ties=ties,
        preference=preference,
        scores=scores,
        fit=fit,
        within=fit_test_within_prompts(table, draws, testing),
        share=intransitive_share(wins, ties, seed_of_share, widening),
        triads=triads,
        bradley_terry=Ranking(scores.score, *interval(bootstrap.score)),
        copeland=Ranking(vote_rankings.copeland(wins), *interval(bootstrap.copeland)),
        lottery=Ranking(lottery, *interval(bootstrap.lottery)),
        support=(bootstrap.lottery > 1e-6).mean(0),
        top=vote_rankings.top_cycle(wins),
        top_frequency=bootstrap.top.mean(0),
        elo=Ranking(points[0], points.min(0), points.max(0)),
        order=order_effect(table),
        tie_share=float((table.outcome == 0.5).mean()),
        nu=fit_davidson(wins, ties)[1] if decided else np.inf,
        agreement=agreement(table),
        widening=widening,
        ask=_ask(table.items, wins, ties, (bootstrap.lottery > 1e-6).mean(0)),
        times=_times(wins, ties, seed_of_share, widening),
    )


def _ask(items: Sequence[str], wins: Matrix, ties: Matrix, support: Matrix) -> list[tuple[str, str]]:
    """Returns five pairs: likely members of the lottery whose order is most in doubt."""
    probable = posterior(wins, ties)
    verdicts = wins + wins.T + ties
    doubt = np.triu(probable * (1 - probable) * np.minimum.outer(support, support) / np.sqrt(verdicts + 1), 1)
    best: list[int] = np.argsort(-doubt, axis=None, kind="stable")[:5].tolist()
    pairs = [divmod(k, len(items)) for k in best if doubt.flat[k] > 0]
    return [(items[i], items[j]) for i, j in pairs]


def _times(wins: Matrix, ties: Matrix, seed: int, widening: float) -> int | None:
    """Returns how many times the verdicts are needed until the share's 95 % deviation is at most .05."""
    excess, variance = (float(part) for part in excess_and_variance(wins, ties))
    if not np.isfinite(excess):
        return None
    share = min(max(excess, 0.0) / max(max(excess, 0.0) + variance, 1e-12), 0.9)
    simulate = simulation_at_share(wins, ties, seed)
    for times in _TIMES:
        excesses, variances = simulate(share, times, 99)
        shares = np.maximum(excesses, 0) / np.maximum(np.maximum(excesses, 0) + variances, 1e-12)
        if widening * (np.quantile(shares, 0.975) - np.quantile(shares, 0.025)) / 2 <= _WIDTH:
            return times
    return None


def finite(value: Any) -> Any:
    """Returns nested numbers with None in the place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _by_item(items: Sequence[str], values: Matrix) -> dict[str, float]:
    return {item: float(value) for item, value in zip(items, values, strict=True)}
