"""Gains of a reward against the KL that they cost: the limit, and best-of-n against its bound and against draws."""

import pytest
import torch

from envs.games import kl_divergence
from envs.games.lower_bounds import best_of_n_kl
from envs.games.reward_gains import best_of_n_distribution, most_gain

REWARD, START = (torch.tensor(values, dtype=torch.float64) for values in ((0.0, 1.0, 0.5), (0.5, 0.3, 0.2)))


@pytest.mark.parametrize(("tau", "ratio"), [(100, 1.000288), (10, 1.002768), (2, 1.011126)])
def test_the_gain_of_the_optimum_tends_to_its_limit(tau, ratio):
    policy = torch.softmax(START.log() + REWARD / tau, 0)
    variance = START @ REWARD**2 - (START @ REWARD) ** 2
    limit = most_gain(variance, kl_divergence(policy, START))
    assert ((policy - START) @ REWARD / limit).item() == pytest.approx(ratio, abs=5e-7)


def test_a_sampled_kl_below_zero_allows_no_gain():
    assert most_gain(torch.tensor(1.0), torch.tensor([-0.1, 2.0])).tolist() == [0, 2]


def test_best_of_two_is_that_of_all_pairs_of_draws():
    drawn = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            drawn[i if REWARD[i] >= REWARD[j] else j] += START[i] * START[j]
    assert best_of_n_distribution(START, REWARD, 2).tolist() == pytest.approx(drawn.tolist())
    assert best_of_n_distribution(START, REWARD, 1).tolist() == pytest.approx(START.tolist())


def test_equal_scores_share_in_the_proportion_of_the_start():
    found = best_of_n_distribution(START, torch.tensor([1.0, 1.0, 0.0]).double(), 3)
    assert (found[0] / found[1]).item() == pytest.approx(5 / 3)
    assert found[2].item() == pytest.approx(0.2**3)


def test_the_kl_of_best_of_n_stays_below_its_bound_and_comes_near_it_among_many():
    many = torch.full((2, 1024), 1 / 1024, dtype=torch.float64)
    score = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0)).double()
    for n in (1, 2, 8, 64):
        few = kl_divergence(best_of_n_distribution(START, REWARD, n), START).item()
        near = kl_divergence(best_of_n_distribution(many, score, n), many)
        assert few <= best_of_n_kl(n) + 1e-12
        assert (near <= best_of_n_kl(n) + 1e-12).all()
        assert near.tolist() == pytest.approx([best_of_n_kl(n)] * 2, abs=0.01)


def test_shapes_and_n_are_checked():
    with pytest.raises(ValueError, match=r"got \(3,\), \(2,\) and 2"):
        best_of_n_distribution(START, REWARD[:2], 2)
    with pytest.raises(ValueError, match="n be at least 1"):
        best_of_n_distribution(START, REWARD, 0)
