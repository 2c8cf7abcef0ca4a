"""Statistics of few seeds: values worked out by hand, and intervals that hold what they should as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runners.benchmark.statistics import (
    bootstrap,
    improvement,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)


def mean(scores):
    return scores.mean((-2, -1))


def column(*scores):
    return np.array(scores, dtype=float)[:, None]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(column(*range(8))) == 3.5
    assert interquartile_mean(column(-100, 1, 2, 1000)) == 1.5
    assert interquartile_mean(np.arange(8.0).reshape(2, 4)) == 3.5
    # Of five scores the second and the fourth count three quarters: (0.75 * 1 + 2 + 0.75 * 6) / 2.5.
    assert interquartile_mean(column(0, 1, 2, 6, 99)) == pytest.approx(2.9)
    assert interquartile_mean(column(7)) == 7


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=40).filter(lambda one: len(one) % 4 == 0))
def test_it_is_scipys_where_a_quarter_is_a_whole_number(scores):
    assert interquartile_mean(column(*scores)) == pytest.approx(stats.trim_mean(scores, 0.25), abs=1e-9)


def test_seeds_are_drawn_again_within_each_game():
    scores = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])  # no seed differs from another
    found = bootstrap(scores, mean)
    assert found == (50.0, 50.0, 50.0)
    mixed = bootstrap(np.array([[0.0, 0.0], [100.0, 100.0]]), mean)
    assert (mixed.low, mixed.value, mixed.high) == (0.0, 50.0, 100.0)


def test_a_seed_names_the_resamples():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert bootstrap(scores) == bootstrap(scores)
    assert bootstrap(scores) != bootstrap(scores, seed=1)


def test_the_interval_is_scipys():
    scores = np.random.default_rng(1).normal(size=(12, 1))
    found = bootstrap(scores, mean, resamples=20_000)
    theirs = stats.bootstrap((scores[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=0)
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held = [bootstrap(rng.normal(size=(10, 4)), resamples=300, seed=i) for i in range(300)]
    share = np.mean([one.low <= 0 <= one.high for one in held])
    assert 0.88 <= share <= 0.98


def test_improvement_counts_pairs_of_seeds_and_half_of_ties():
    assert probability_of_improvement(column(1, 3), column(2, 0)) == 0.75
    assert probability_of_improvement(column(1, 1), column(1)) == 0.5
    assert probability_of_improvement(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 0.5
    first, second = np.random.default_rng(3).normal(size=(2, 30, 1))
    found = stats.mannwhitneyu(first[:, 0], second[:, 0]).statistic / 900
    assert probability_of_improvement(first, second) == pytest.approx(found)
    interval = improvement(first + 3, second)
    assert 0.9 < interval.low <= interval.value <= interval.high <= 1


def test_the_profile_is_the_share_above():
    scores = np.array([[0.1, 0.4], [0.3, 0.9]])
    assert performance_profile(scores, np.array([0.0, 0.1, 0.35, 0.9])).tolist() == [1.0, 0.75, 0.5, 0.0]


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((0, 2)), np.array([[np.nan]])])
def test_what_are_no_scores_is_told(scores):
    with pytest.raises(ValueError, match=r"scores must be finite numbers \[seeds, games\]"):
        interquartile_mean(scores)


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="the same games, got 1 and 2"):
        probability_of_improvement(np.zeros((1, 1)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        bootstrap(np.zeros((2, 2)), level=95)
