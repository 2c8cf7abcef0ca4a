"""Cross-play and rankings of policies: known games, copies of a policy, and the policy of most entropy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.games import (
    alpha_rank,
    cross_play,
    elo,
    exploitability,
    maximum_entropy_winner,
    nash_average,
    regularised_nash,
    von_neumann_winner,
)
from oracles.cyclic import cyclic_logits
from tests.envs.games.matrices import COMAL

CYCLE = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
COPIED = [0, 1, 2, 2]


def random_table(n, seed, levels):
    advantage = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    advantage = (advantage * levels).round().clamp(-levels, levels) / (2.5 * levels)
    upper = torch.triu(advantage, 1)
    return 0.5 + upper - upper.mT


tables = st.builds(random_table, st.integers(2, 9), st.integers(0, 10**6), st.sampled_from([1, 2, 1000]))


def test_cross_play_is_the_mean_over_prompts():
    policies = torch.softmax(torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1)
    batch = torch.stack([COMAL, CYCLE])
    table = cross_play(batch, policies)
    expected = (policies[0, 0] @ COMAL @ policies[2, 0] + policies[0, 1] @ CYCLE @ policies[2, 1]) / 2
    assert table[0, 2].item() == pytest.approx(expected.item())
    assert torch.allclose(cross_play(batch.mT, policies), table.mT, atol=1e-15)
    assert torch.equal(table.diagonal(), torch.full((3,), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"policies must be \[A, 2, 3\]"):
        cross_play(batch, policies[:, :1])


def test_pure_policies_play_the_game_itself():
    assert torch.allclose(cross_play(COMAL, torch.eye(3, dtype=torch.float64)), COMAL)
    assert nash_average(COMAL).tolist() == pytest.approx([4 / 11, 3 / 11, 4 / 11])


def test_a_copy_moves_elo_but_not_the_nash_average():
    copied = CYCLE[COPIED][:, COPIED]
    assert nash_average(copied).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    assert elo(CYCLE).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert elo(copied)[1] > 70 > -70 > elo(copied)[0]


def test_elo_is_four_hundred_points_for_odds_of_ten():
    ratings = torch.tensor([400.0, 0.0, -400.0], dtype=torch.float64)
    table = 1 / (1 + 10 ** ((ratings[None, :] - ratings[:, None]) / 400))
    assert elo(table).tolist() == pytest.approx(ratings.tolist(), abs=1e-3)


def test_alpha_rank_finds_the_dominant_policy_and_splits_a_cycle_evenly():
    better = torch.tensor([[0.5, 0.6, 0.9], [0.4, 0.5, 0.7], [0.1, 0.3, 0.5]], dtype=torch.float64)
    assert alpha_rank(better).tolist() == pytest.approx([1, 0, 0], abs=1e-9)
    assert alpha_rank(CYCLE).tolist() == pytest.approx([1 / 3] * 3)
    assert alpha_rank(CYCLE, alpha=1e6, population=1000).tolist() == pytest.approx([1 / 3] * 3)


def test_alpha_rank_keeps_its_digits_where_chances_underflow():
    # Two policies: the time shares stand in the ratio of the fixation probabilities, e^(u (m - 1)).
    table = torch.tensor([[0.5, 0.6], [0.4, 0.5]], dtype=torch.float64)
    for alpha, population in ((1.0, 50), (2.0, 50), (100.0, 5)):
        odds = math.exp(alpha * 0.2 * (population - 1))
        assert alpha_rank(table, alpha=alpha, population=population)[0].item() == pytest.approx(odds / (1 + odds))
    assert alpha_rank(table, alpha=1e4)[1].item() == 0
    assert alpha_rank(torch.full((4, 4), 0.5)).tolist() == pytest.approx([0.25] * 4)


@settings(max_examples=75, deadline=None)
@given(tables)
def test_the_winner_of_most_entropy_wins_and_has_the_most_entropy(table):
    winner = maximum_entropy_winner(table)
    assert winner.certificate <= 1e-9
    assert exploitability(table, winner.policy) <= 1e-9
    other = von_neumann_winner(table).policy
    for share in (1.0, 1e-3):  # the entropy is concave and winners are convex: no step towards another may gain
        mixed = (1 - share) * winner.policy + share * other
        assert torch.special.entr(mixed).sum() <= torch.special.entr(winner.policy).sum() + 1e-8


@pytest.mark.slow
@settings(max_examples=75, deadline=None)
@given(tables)
def test_it_is_the_limit_of_the_regularised_nash_policy(table):
    """For all tau the regularised policy p has exploitability <= tau H(p) and H(p) >= H(any winner).

    Its limit is thus a winner, and of no less entropy than the one of most. How fast it gets there depends on the game:
    where a response is worth a millionth too little, tau must be smaller than that.
    """
    uniform = torch.full((len(table),), 1 / len(table), dtype=torch.float64)
    most = torch.special.entr(maximum_entropy_winner(table).policy).sum()
    for tau in (1e-2, 1e-3, 1e-4):
        policy = regularised_nash(table, uniform, tau).policy
        entropy = torch.special.entr(policy).sum()
        assert exploitability(table, policy) <= tau * entropy + 1e-9
        assert entropy >= most - 1e-7


def test_the_regularised_nash_policy_comes_near_it():
    for seed in range(20):
        table = random_table(8, seed, 1.0)
        uniform = torch.full((8,), 1 / 8, dtype=torch.float64)
        exact = maximum_entropy_winner(table).policy
        far, near = ((regularised_nash(table, uniform, tau).policy - exact).abs().sum() for tau in (1e-2, 1e-4))
        assert near < max(0.2 * far, 1e-3)


@settings(max_examples=80, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_rankings_follow_renaming(table, random):
    order = random.sample(range(len(table)), len(table))
    renamed = table[order][:, order]
    for rank in (nash_average, alpha_rank, elo):
        assert torch.allclose(rank(renamed), rank(table)[order], atol=1e-5 if rank is not elo else 1e-2)


@pytest.mark.parametrize("lam", [0.75, 1.0])
def test_smooth_games_of_low_rank_still_have_a_winner(lam):
    payoff = torch.sigmoid(cyclic_logits("disc", lam, 2.0, 200, 0))
    assert exploitability(payoff, maximum_entropy_winner(payoff).policy) <= 1e-9


def test_a_batch_is_no_meta_game():
    for rank in (nash_average, alpha_rank, elo):
        with pytest.raises(ValueError, match="one "):
            rank(torch.stack([COMAL, COMAL]))
    with pytest.raises(ValueError, match="alpha must be positive"):
        alpha_rank(COMAL, alpha=0)
