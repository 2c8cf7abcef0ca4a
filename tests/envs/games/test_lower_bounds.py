"""Bounds from samples never lie above the exploitability but by chance, and reach it with the right adversary."""

import math
from math import nan

import pytest
import torch
from scipy import stats

from envs.games import exploitability, von_neumann_winner
from envs.games.lower_bounds import best_of_n, best_of_n_kl, best_of_pool, bound
from tests.envs.games.matrices import random_game

REPEATS = 400


def drawn(payoff, policy, count, seed):
    """[REPEATS, N, count] what each response wins against samples of the policy, each row another set of samples."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(policy.expand(REPEATS, -1), count, replacement=True, generator=generator)
    return payoff[:, chosen].permute(1, 0, 2)


def test_it_chooses_on_one_half_and_measures_on_the_other():
    wins = torch.tensor([[[0.9, 0.9, 0.2, 0.4], [0.1, 0.3, 0.8, 0.6]]])
    # The first response is the better one of the first half, the second of the second half.
    assert best_of_pool(wins).tolist() == [pytest.approx([-0.4, -0.2, -0.3, -0.1])]


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_adds_nothing_at_an_equilibrium(seed):
    payoff = random_game(12, seed)[0]
    wins = drawn(payoff, von_neumann_winner(payoff).policy, 8, seed)
    gains = best_of_pool(wins).mean(1)
    assert gains.mean() < 3 * gains.std() / REPEATS**0.5
    chosen_and_measured_on_the_same = wins.mean(2).amax(1) - 0.5
    assert chosen_and_measured_on_the_same.mean() > 0.03


@pytest.mark.parametrize("seed", range(3))
def test_its_expectation_is_at_most_the_exploitability_and_reaches_it_with_samples(seed):
    payoff = random_game(12, seed)[0]
    policy = torch.softmax(torch.arange(12, dtype=torch.float64) / 4, 0)
    exact = exploitability(payoff, policy).item()
    few, many = (best_of_pool(drawn(payoff, policy, count, seed)).mean(1) for count in (4, 400))
    for gains in (few, many):
        assert gains.mean() < exact + 3 * gains.std() / REPEATS**0.5
    assert many.mean() > 0.95 * exact


def test_without_a_signal_every_bound_is_nothing():
    wins = torch.full((5, 64, 8), 0.5)
    for gains in (best_of_pool(wins), best_of_n(wins, 16)):
        assert bound(gains) == bound(gains, fixed_prompts=True)
        assert (bound(gains).low, bound(gains).value, bound(gains).high) == (0, 0, 0)


def test_the_best_of_n_is_the_mean_of_the_largest_of_each_block():
    worth = torch.tensor([0.1, 0.7, 0.4, 0.6, 0.9])
    wins = worth[None, :, None].expand(1, 5, 4)
    for n, expected in {1: 0.54, 2: 0.65, 5: 0.9}.items():  # blocks of two: .7, .6; the fifth is left over
        assert best_of_n(wins, n).tolist() == [pytest.approx([expected - 0.5] * 4)]
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_the_interval_is_students_over_prompts_or_over_samples():
    gains = torch.tensor([[0.1, 0.3], [0.2, 0.2], [0.4, 0.0]], dtype=torch.float64)
    found = bound(gains - 0.05)
    low, high = stats.t.interval(0.95, 2, loc=0.15, scale=stats.sem([0.15, 0.15, 0.15]) or 1e-12)
    assert (found.low, found.value, found.high) == pytest.approx((low, 0.15, high))
    (one,) = [bound(gains[2:])]
    low, high = stats.t.interval(0.95, 1, loc=0.2, scale=stats.sem([0.4, 0.0]))
    assert one.low == max(low, 0)
    assert one.high == min(high, 0.5)
    fixed = bound(gains, fixed_prompts=True)
    error = (sum(stats.sem(row) ** 2 for row in gains.tolist()) ** 0.5) / 3
    assert fixed.high == pytest.approx(min(0.5, 0.2 + stats.t.ppf(0.975, 1) * error))


def test_an_interval_of_two_halves_covers_what_an_equilibrium_loses():
    payoff = random_game(7, 0)[0]
    gains = best_of_pool(drawn(payoff, von_neumann_winner(payoff).policy, 8, 0))
    above = {halves: sum(bound(row[None], halves=halves).low > 0 for row in gains) for halves in (False, True)}
    assert above[True] <= 0.08 * REPEATS < above[False]


@pytest.mark.parametrize("shape", [(2, 3), (2, 0, 4), (2, 3, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="wins must be"):
        best_of_pool(torch.zeros(shape))
    with pytest.raises(ValueError, match="n must lie between 1 and the 3 samples"):
        best_of_n(torch.zeros(1, 3, 4), 4)


def test_unread_pairs_play_no_part():
    wins = torch.tensor([[[0.9, nan, 0.7, 0.5], [nan, 0.2, 0.4, nan]], [[0.6, 0.6, nan, nan], [0.1, nan, 0.8, 0.9]]])
    # chosen by .9 against .2, and .6 against .4; .6 against .1, and by .85 alone
    gains = best_of_pool(wins)
    assert gains.nan_to_num(9).tolist() == [pytest.approx([0.4, 9, 0.2, 0.0]), pytest.approx([-0.4, 9, 9, 9])]
    assert best_of_n(wins, 1).nan_to_num(9)[0].tolist() == pytest.approx([0.4, -0.3, 0.05, 0.0])
    whole = torch.tensor([[0.1, 0.3], [0.2, 0.0]])
    holes = torch.tensor([[nan, 0.1, 0.3], [0.2, nan, 0.0], [0.4, nan, nan]])
    assert bound(holes) == bound(whole), "a prompt with a single answer has no mean of several"
    assert bound(holes, fixed_prompts=True) == bound(whole, fixed_prompts=True)
    with pytest.raises(ValueError, match="a single number"):
        bound(torch.tensor([[nan, 0.3]]))
