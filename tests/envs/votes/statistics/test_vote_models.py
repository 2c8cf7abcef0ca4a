"""Fits of tables of votes against other libraries, direct optimisation and enumeration."""

import itertools
import math

import choix
import numpy as np
import pytest
from scipy.optimize import minimize

from envs.votes.statistics.bradley_terry import deviance, fit_bradley_terry, fit_davidson, leverage
from envs.votes.statistics.conditional import sample_tables
from envs.votes.statistics.pairs import Pairs
from envs.votes.statistics.share import excess_and_variance, intransitive_share, simulation_at_share
from envs.votes.table import VoteTable


def table_of(chance: np.ndarray, verdicts: int, generator: np.random.Generator) -> np.ndarray:
    """Draws [n, n] wins, every pair compared `verdicts` times."""
    size = np.triu(np.full(chance.shape, verdicts), 1)
    won = generator.binomial(size, chance)
    return (won + np.tril((size - won).T)).astype(float)


def sigmoid_of(score: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(score[None, :] - score[:, None]))


def dialled(count: int, lam: float, generator: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    """Returns chances whose logits have the share `lam` of curl and the root mean square `scale`."""
    score, curl = generator.normal(size=count), generator.normal(size=(count, count))
    flow, curl = score[:, None] - score, curl - curl.T
    mean = curl.mean(1)
    curl -= mean[:, None] - mean
    pairs = np.triu_indices(count, 1)
    parts = [part / np.sqrt((part[pairs] ** 2).mean()) for part in (flow, curl)]
    return 1 / (1 + np.exp(-scale * (math.sqrt(1 - lam) * parts[0] + math.sqrt(lam) * parts[1])))


def test_scores_are_those_of_choix() -> None:
    generator = np.random.default_rng(1)
    wins = table_of(sigmoid_of(generator.normal(size=7)), 12, generator)
    data = [(i, j) for i, j in itertools.permutations(range(7), 2) for _ in range(int(wins[i, j]))]
    expected = choix.opt_pairwise(7, data, alpha=0, method="BFGS", tol=1e-10)
    np.testing.assert_allclose(fit_bradley_terry(wins).score, expected - expected.mean(), atol=1e-6)


def test_many_tables_are_fitted_as_if_each_were_alone() -> None:
    generator = np.random.default_rng(2)
    wins = generator.integers(0, 4, (20, 5, 5)).astype(float) * (1 - np.eye(5))
    together = fit_bradley_terry(wins)
    for k in range(20):
        np.testing.assert_allclose(together.score[k], fit_bradley_terry(wins[k]).score, atol=1e-9)


def test_fits_do_not_depend_on_where_they_start() -> None:
    """Sparse tables, some of them in several components or with items that lost everything."""
    generator = np.random.default_rng(9)
    wins = generator.integers(0, 3, (20, 8, 8)) * (generator.random((20, 8, 8)) < 0.3) * (1.0 - np.eye(8))
    fit = fit_bradley_terry(wins, generator.normal(size=8))
    assert 0 < fit.held.mean() < 1
    assert fit.component.any()
    np.testing.assert_allclose(fit.score, fit_bradley_terry(wins).score, atol=1e-9)


def test_sums_over_pairs_are_those_over_cells() -> None:
    generator = np.random.default_rng(10)
    weight = np.triu(generator.random((3, 5, 5)) * (generator.random((5, 5)) < 0.6), 1)
    pairs = Pairs.of(np.tril(weight.swapaxes(1, 2)))
    both, columns = weight + weight.swapaxes(1, 2), weight[:, pairs.low, pairs.high]
    np.testing.assert_allclose(pairs.both(columns), both.sum(2))
    np.testing.assert_allclose(pairs.net(columns), (weight - weight.swapaxes(1, 2)).sum(2))
    np.testing.assert_allclose(pairs.laplacian(columns), both.sum(2)[:, :, None] * np.eye(5) - both)


def test_an_item_that_never_lost_has_a_finite_score_and_is_named() -> None:
    fit = fit_bradley_terry(np.array([[0.0, 5, 5], [0, 0, 3], [0, 2, 0]]))
    assert fit.held.all()
    assert np.isfinite(fit.score).all()
    assert 1 < fit.score[0] - fit.score[1] < 6


def test_items_that_never_met_are_not_compared() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1], wins[1, 0], wins[2, 3], wins[3, 2] = 3, 1, 1, 1
    fit = fit_bradley_terry(wins)
    np.testing.assert_allclose(fit.score, [math.log(3) / 2, -math.log(3) / 2, 0, 0], atol=1e-9)
    assert fit.chance()[0, 2] == 0.5
    assert not fit.held.any()


def test_davidsons_nu_is_that_of_a_direct_optimisation() -> None:
    generator = np.random.default_rng(3)
    wins = generator.integers(1, 20, (5, 5)) * (1.0 - np.eye(5))
    ties = np.triu(generator.integers(0, 9, (5, 5)), 1).astype(float)
    ties += ties.T

    def misfit(x: np.ndarray) -> float:
        half = (x[:-1, None] - x[None, :-1]) / 2
        total = np.log(np.exp(half) + np.exp(-half) + np.exp(x[-1]))
        return -float((wins * (half - total)).sum() + (ties * (x[-1] - total)).sum() / 2)

    best = minimize(misfit, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    score, nu = fit_davidson(wins, ties)
    assert nu == pytest.approx(math.exp(best[-1]), abs=1e-6)
    np.testing.assert_allclose(score, best[:-1] - best[:-1].mean(), atol=1e-6)


def test_leverages_sum_to_the_scores_that_were_fitted() -> None:
    generator = np.random.default_rng(4)
    wins = generator.integers(1, 20, (6, 6)) * (1.0 - np.eye(6))
    pairs = Pairs.of(wins[None])
    verdicts = (wins + wins.T)[pairs.low, pairs.high]
    chance = fit_bradley_terry(wins).chance()[pairs.low, pairs.high]
    assert leverage(pairs, verdicts[None], chance[None]).sum() == pytest.approx(5)


def test_the_deviance_is_that_of_the_definition() -> None:
    wins = np.array([[0.0, 3], [1, 0]])
    expected = 2 * (3 * math.log(3 / (4 * 0.5)) + math.log(1 / (4 * 0.5)))
    assert deviance(wins, np.full((2, 2), 0.5)) == pytest.approx(expected)


def test_sampled_tables_follow_the_conditional_distribution() -> None:
    """Three items, three verdicts a pair: the tables with these wins are a line, of weights prod C(3, W)."""
    wins = np.array([[0.0, 2, 1], [1, 0, 2], [2, 1, 0]])
    tables = sample_tables(wins, 20_000, np.random.default_rng(5))
    assert (tables.sum(2) == wins.sum(1)).all()
    assert (tables + tables.swapaxes(1, 2) == wins + wins.T).all()
    weight = np.array([math.comb(3, a) * math.comb(3, a) * math.comb(3, 3 - a) for a in range(4)])
    seen = np.bincount(tables[:, 0, 1].astype(int), minlength=4) / 20_000
    np.testing.assert_allclose(seen, weight / weight.sum(), atol=0.02)


def test_sampled_tables_reach_cycles_that_have_no_triangle() -> None:
    wins = np.zeros((4, 4))
    for i in range(4):
        wins[i, (i + 1) % 4] = 1
    tables = sample_tables(wins, 1000, np.random.default_rng(6))
    assert 0.4 < (tables == wins).all((1, 2)).mean() < 0.6
    assert ((tables == wins).all((1, 2)) | (tables == wins.T).all((1, 2))).all()


@pytest.mark.parametrize(("count", "verdicts"), [(6, 50), (10, 20), (20, 5)])
def test_the_share_is_the_dialled_one(count: int, verdicts: int) -> None:
    generator = np.random.default_rng(7)
    for lam, low, high in ((0.0, 0.0, 0.02), (0.1, 0.07, 0.15), (0.5, 0.45, 0.62)):
        shares = []
        for _ in range(60):
            wins = table_of(dialled(count, lam, generator), verdicts, generator)
            excess, variance = excess_and_variance(wins, np.zeros_like(wins))
            shares.append(max(excess, 0) / (max(excess, 0) + variance))
        assert low <= np.median(shares) <= high, lam


def test_few_verdicts_do_not_lower_the_median_share() -> None:
    generator = np.random.default_rng(11)
    chances = np.stack([dialled(20, 0.5, generator) for _ in range(200)])
    medians = []
    for tables in (np.stack([table_of(chance, 5, generator) for chance in chances]), 1e7 * chances * (1 - np.eye(20))):
        excess, variance = excess_and_variance(tables, np.zeros_like(tables))
        medians.append(np.median(excess / (excess + variance)))
    assert medians[0] == pytest.approx(medians[1], abs=0.025)


def test_simulated_tables_have_the_share_and_the_variance_that_are_asked_for() -> None:
    generator = np.random.default_rng(12)
    wins = table_of(dialled(20, 0.3, generator), 5, generator)
    _, estimated = excess_and_variance(wins, np.zeros_like(wins))
    excess, variance = simulation_at_share(wins, np.zeros_like(wins), seed=0)(0.2, 1, 300)
    assert variance.mean() == pytest.approx(estimated, rel=0.03)
    assert excess.mean() / (excess.mean() + variance.mean()) == pytest.approx(0.2, abs=0.02)


def test_coins_have_a_positive_variance_and_a_finite_share() -> None:
    generator = np.random.default_rng(13)
    wins = np.stack([table_of(np.full((6, 6), 0.5), 2, generator) for _ in range(50)])
    assert (excess_and_variance(wins, np.zeros_like(wins))[1] > 0).all()
    share = intransitive_share(wins[0], np.zeros_like(wins[0]), seed=0)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_ties_have_less_noise_than_decided_verdicts() -> None:
    """All pairs tie always: nothing scatters, and nothing is taken out."""
    ties = 10.0 * (1 - np.eye(4))
    excess, variance = excess_and_variance(np.zeros((4, 4)), ties)
    assert excess == pytest.approx(0)
    assert variance == pytest.approx(0)


def test_the_interval_of_the_share_holds_the_estimate() -> None:
    generator = np.random.default_rng(8)
    wins = table_of(dialled(6, 0.3, generator), 50, generator)
    share = intransitive_share(wins, np.zeros_like(wins), seed=0)
    assert 0 < share.low < share.value < share.high < 1
    wider = intransitive_share(wins, np.zeros_like(wins), seed=0, widening=2.0)
    assert wider.low < share.low < share.high < wider.high


def test_a_table_counts_wins_and_ties() -> None:
    table = VoteTable.from_columns(["b", "a", "a", "b"], ["a", "b", "b", "c"], [1, 1, 0.5, 0])
    wins, ties = table.tally()
    assert table.items == ["a", "b", "c"]
    np.testing.assert_array_equal(wins, [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(ties, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(table.tally(np.array([0, 0]))[0], [[0, 0, 0], [2, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": np.array([2.0])}, r"outcomes must lie in \[0, 1\]"),
        ({"second": np.array([0])}, "row 0 compares 'a' with itself"),
        ({"second": np.array([5])}, r"must lie in 0\.\.1, got 0\.\.5"),
        ({"items": ["a", "a"]}, "must have different names"),
        ({"annotators": np.array([0, 1])}, r"must have one length, got \[1, 2\]"),
    ],
)
def test_a_wrong_table_is_refused(change: dict, message: str) -> None:
    columns = {"items": ["a", "b"], "first": np.array([0]), "second": np.array([1]), "outcome": np.array([1.0])}
    with pytest.raises(ValueError, match=message):
        VoteTable(**columns | change)
