"""Rankings of tables of votes against their definitions."""

import itertools

import numpy as np
import pytest
import torch

from envs.games import exploitability
from envs.votes.statistics import vote_rankings
from envs.votes.table import VoteTable

CYCLE = np.array([[0.0, 6, 4, 9], [4, 0, 6, 9], [6, 4, 0, 9], [1, 1, 1, 0]])


def smallest_dominating_set(wins: np.ndarray) -> set[int]:
    """Returns the top cycle by trying all sets, the smallest first."""
    items = range(len(wins))
    for size in range(1, len(wins) + 1):
        for members in itertools.combinations(items, size):
            if all(wins[i, j] > wins[j, i] for i in members for j in set(items) - set(members)):
                return set(members)
    raise AssertionError


def test_the_top_cycle_is_the_smallest_set_that_beats_the_rest() -> None:
    generator = np.random.default_rng(0)
    tables = generator.integers(0, 4, (200, 5, 5)).astype(float)
    members = vote_rankings.top_cycle(tables)
    for table, found in zip(tables, members, strict=True):
        assert set(np.flatnonzero(found)) == smallest_dominating_set(table)


def test_copeland_counts_items_beaten() -> None:
    np.testing.assert_array_equal(vote_rankings.copeland(CYCLE), [2, 2, 2, 0])
    np.testing.assert_array_equal(vote_rankings.copeland(np.zeros((3, 3))), [1, 1, 1])


def test_the_lottery_of_a_cycle_is_unbeaten_and_leaves_the_loser_out() -> None:
    preference = vote_rankings.preferences(CYCLE, np.zeros((4, 4)))
    lottery = vote_rankings.maximal_lottery(preference)
    np.testing.assert_allclose(lottery, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-8)
    assert float(exploitability(torch.from_numpy(preference), torch.from_numpy(lottery))) < 1e-8


@pytest.mark.slow
def test_the_lottery_is_that_of_open_spiel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven ballots make odd margins, of which the lottery is unique (Laffond, Laslier and Le Breton 1997)."""
    voting = pytest.importorskip("open_spiel.python.voting.maximal_lotteries")
    base = pytest.importorskip("open_spiel.python.voting.base")
    program = pytest.importorskip("open_spiel.python.algorithms.lp_solver").LinearProgram
    # OpenSpiel's default solver, ECOS, is no longer installed with cvxpy.
    monkeypatch.setattr(program.solve, "__defaults__", ("HIGHS", {"solver": "HIGHS"}))
    generator = np.random.default_rng(1)
    mixed = 0
    for _ in range(20):
        ballots = [generator.permutation(6).tolist() for _ in range(7)]
        profile = base.PreferenceProfile(votes=ballots, alternatives=list(range(6)))
        outcome = voting.MaximalLotteriesVoting(iterative=False).run_election(profile)
        expected = np.zeros(6)
        expected[list(outcome.ranking)] = outcome.scores
        preference = profile.pref_matrix() / 7 + np.eye(6) / 2
        found = vote_rankings.maximal_lottery(preference)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        mixed += int((found > 1e-3).sum() > 1)
    assert mixed >= 3


def test_a_pair_without_verdicts_takes_the_models_prediction() -> None:
    wins = np.array([[0.0, 3, 0], [1, 0, 3], [0, 1, 0]])
    preference = vote_rankings.preferences(wins, np.zeros((3, 3)))
    assert preference[0, 1] == 0.75
    assert preference[0, 2] == pytest.approx(0.9)  # odds 3 x 3
    apart = np.zeros((4, 4))
    apart[0, 1] = apart[2, 3] = 1
    assert vote_rankings.preferences(apart, np.zeros((4, 4)))[0, 2] == 0.5


def test_elo_depends_on_the_order_of_the_verdicts() -> None:
    table = VoteTable(["a", "b"], np.array([0] * 10), np.array([1] * 10), np.repeat([1.0, 0.0], 5))
    points = vote_rankings.elo(table, np.random.default_rng(0), orders=5)
    assert points.shape == (6, 2)
    np.testing.assert_allclose(points.sum(1), 2000)
    assert points[0, 0] < 1000  # five wins before five losses
    once = vote_rankings.elo(VoteTable.from_columns(["a"], ["b"], [1.0]), np.random.default_rng(0))
    np.testing.assert_allclose(once[0], [1002, 998])
