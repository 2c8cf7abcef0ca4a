"""The solvers against games whose equilibrium is known, and against their own proofs."""

import math

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.games import (
    best_response,
    exploitability,
    payoff_matrix,
    regularised_exploitability,
    regularised_nash,
    von_neumann_winner,
)
from envs.games.regularised_nash import NotConvergedError
from oracles.cyclic import cyclic_logits
from oracles.table import TableOracle
from tests.envs.games.matrices import COMAL, NASH, REF, ROCK, double, random_game

games = st.builds(random_game, st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([0.3, 2.0, 6.0]))


@pytest.mark.parametrize("tau", NASH)
def test_rock_paper_scissors_has_the_known_regularised_equilibria(tau):
    solution = regularised_nash(ROCK, REF, tau, tol=1e-12)
    assert solution.policy.tolist() == pytest.approx(NASH[tau], abs=5e-7)
    assert (solution.policy - best_response(ROCK, solution.policy, REF, tau)).abs().max() < 1e-12
    rounded = double(NASH[tau]) / sum(NASH[tau])
    assert torch.allclose(best_response(ROCK, rounded, REF, tau), rounded, atol=2e-5)
    assert regularised_exploitability(ROCK, rounded, REF, tau).item() < 1e-9
    assert regularised_exploitability(ROCK, REF, REF, tau).item() > 1e-5


def test_comal_3_has_the_known_equilibria():
    ref = torch.tensor([0.2, 0.5, 0.3])
    solution = regularised_nash(COMAL, ref, 0.1)
    assert solution.policy.tolist() == pytest.approx((0.274917, 0.279723, 0.445360), abs=5e-7)
    for method in ("highs", "interior"):
        winner = von_neumann_winner(COMAL, method=method).policy
        assert winner.tolist() == pytest.approx((4 / 11, 3 / 11, 4 / 11), abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(games, st.sampled_from([1.0, 0.1, 0.02]), st.integers(0, 10**6))
def test_the_certificate_bounds_the_error_of_any_policy(game, tau, seed):
    payoff, ref = game
    solution = regularised_nash(payoff, ref, tau, tol=1e-10)
    assert solution.certificate <= 1e-10
    assert regularised_exploitability(payoff, solution.policy, ref, tau) < 1e-15
    policy = torch.softmax(torch.randn(len(ref), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), 0)
    excess = policy.log() - best_response(payoff, policy, ref, tau).log()
    bound = (excess.max() - excess.min()) / 2
    assert (policy - solution.policy).abs().sum() <= bound + 1e-9


@settings(max_examples=75, deadline=None)
@given(games, st.floats(0.0, 0.9), st.sampled_from([1.0, 0.1]))
def test_noise_only_rescales_tau(game, eps, tau):
    payoff, ref = game
    noisy = regularised_nash((1 - eps) * payoff + eps / 2, ref, tau).policy
    assert torch.allclose(noisy, regularised_nash(payoff, ref, tau / (1 - eps)).policy, atol=1e-8)


@settings(max_examples=75, deadline=None)
@given(games, st.randoms(use_true_random=False))
def test_renaming_responses_renames_the_equilibrium(game, random):
    payoff, ref = game
    order = random.sample(range(len(ref)), len(ref))
    renamed = regularised_nash(payoff[order][:, order], ref[order], 0.1).policy
    assert torch.allclose(renamed, regularised_nash(payoff, ref, 0.1).policy[order], atol=1e-8)


@settings(max_examples=75, deadline=None)
@given(games)
def test_a_clone_shares_the_reference_and_changes_nothing_else(game):
    payoff, ref = game
    twice = [*range(len(ref)), 0]
    split = ref[twice].clone()
    split[[0, -1]] /= 2
    cloned = regularised_nash(payoff[twice][:, twice], split, 0.1).policy
    original = regularised_nash(payoff, ref, 0.1).policy
    assert torch.allclose(cloned[1:-1], original[1:], atol=1e-8)
    assert torch.allclose(cloned[0] + cloned[-1], original[0], atol=1e-8)


@settings(max_examples=75, deadline=None)
@given(games)
def test_nothing_beats_a_von_neumann_winner(game):
    payoff, _ = game
    for method in ("highs", "interior"):
        winner = von_neumann_winner(payoff, method=method)
        assert exploitability(payoff, winner.policy) <= 1e-9
        assert winner.policy.sum() == pytest.approx(1)


@settings(max_examples=75, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_the_winner_of_a_bradley_terry_game_has_the_best_reward(n, seed):
    reward = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    payoff = torch.sigmoid(reward[:, None] - reward[None, :])
    winner = von_neumann_winner(payoff).policy
    assert winner[reward.argmax()] > 1 - 1e-6


@settings(max_examples=75, deadline=None)
@given(games, st.floats(0.01, 0.3))
def test_dominated_responses_get_nothing(game, margin):
    payoff, ref = game
    n = len(ref)
    beaten = torch.full((n + 1, n + 1), 0.5, dtype=torch.float64)
    beaten[:n, :n] = payoff
    beaten[n, :n] = (payoff[0] - margin).clamp_min(0)  # worse than the first against everyone but itself
    beaten[:n, n] = 1 - beaten[n, :n]
    beaten[n, 0] = beaten[n, 0].clamp_max(0.5 - margin)
    beaten[0, n] = 1 - beaten[n, 0]
    winner = von_neumann_winner(beaten).policy
    assert winner[n] < 1e-6
    assert exploitability(payoff, winner[:n] / winner[:n].sum()) < 1e-6
    tau = 0.1
    wide = torch.cat([ref, ref[:1]]) / (1 + ref[0])
    nash = regularised_nash(beaten, wide, tau).policy
    chance = beaten @ nash
    assert nash[n] / nash[0] == pytest.approx(math.exp(float(chance[n] - chance[0]) / tau))
    assert nash[n] < nash[0]


@settings(max_examples=75, deadline=None)
@given(games, st.sampled_from([1.0, 0.1]), st.integers(0, 10**6))
def test_transposing_the_game_swaps_the_roles(game, tau, seed):
    payoff, ref = game
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.softmax(torch.randn(2, len(ref), dtype=torch.float64, generator=generator), -1)
    assert (first @ payoff @ second).item() == pytest.approx((second @ payoff.mT @ first).item())
    worst = 0.5 - (payoff @ first).min()
    assert exploitability(payoff.mT, first).item() == pytest.approx(worst.item(), abs=1e-12)
    mirrored = regularised_nash(1 - payoff, ref, tau).policy
    assert torch.allclose(regularised_nash(payoff.mT, ref, tau).policy, mirrored, atol=1e-8)
    upside = torch.softmax(ref.log() - payoff @ mirrored / tau, -1)  # who wants to lose
    assert torch.allclose(upside, mirrored, atol=1e-7)


@pytest.mark.parametrize(("turn", "below", "above"), [(1, 0.6666, 0.6667), (-1, 0.3333, 0.3334)])
def test_three_ranked_responses_mix_from_a_known_share_of_cycle_on(turn, below, above):
    rank = torch.tensor([[0, 1, 2], [-1, 0, 1], [-2, -1, 0]], dtype=torch.float64) / math.sqrt(2)
    cycle = turn * torch.tensor([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)

    def winner(lam):
        payoff = torch.sigmoid(2 * (math.sqrt(1 - lam) * rank + math.sqrt(lam) * cycle))
        return von_neumann_winner(payoff, tol=1e-12).policy.max().item()

    assert winner(below) > 1 - 1e-9
    assert winner(above) < 1 - 1e-5


def test_the_gap_of_an_estimated_games_winner_falls_with_the_root_of_the_queries():
    payoff = torch.tensor([[0.5, 0.3, 0.7], [0.7, 0.5, 0.35], [0.3, 0.65, 0.5]], dtype=torch.float64)
    sizes, gaps = [300, 3000, 30000], []
    for queries in sizes:
        chances = payoff.triu(1).expand(200, 3, 3)
        wins = torch.binomial(torch.full_like(chances, queries // 3), chances, torch.Generator().manual_seed(0))
        seen = wins.triu(1) / (queries // 3)
        lower = (1 - seen.mT).tril(-1)
        winners = [von_neumann_winner(game + torch.eye(3) / 2).policy for game in seen + lower]
        gaps.append(exploitability(payoff, torch.stack(winners)).mean().item())
    slope = math.log(gaps[-1] / gaps[0]) / math.log(sizes[-1] / sizes[0])
    assert slope == pytest.approx(-0.5, abs=0.06)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_where_the_linear_program_stops_short_the_interior_point_goes_on(lam):
    payoff = torch.sigmoid(cyclic_logits("disc", lam, 2.0, 64, 0))
    assert von_neumann_winner(payoff, tol=1e-11).certificate <= 1e-11


def test_a_batch_holds_the_solutions_of_its_games():
    many = [random_game(7, seed) for seed in range(20)]
    batch = regularised_nash(torch.stack([p for p, _ in many]), torch.stack([r for _, r in many]), 0.05)
    for i, (payoff, ref) in enumerate(many):
        alone = regularised_nash(payoff, ref, 0.05)
        assert (batch.policy[i] - alone.policy).abs().sum() <= batch.certificate[i] + alone.certificate


@pytest.mark.parametrize("tau", [1.0, 0.01, 0.002, 1e-4])
def test_large_games_and_small_tau_reach_the_tolerance(tau):
    payoff, ref = random_game(600, 1)
    assert regularised_nash(payoff, ref, tau, tol=1e-8).certificate <= 1e-8


def test_a_game_without_its_matrix_has_the_same_solution():
    payoff, ref = random_game(40, 3)
    assert torch.allclose(
        regularised_nash(lambda p: payoff @ p, ref, 0.05).policy, regularised_nash(payoff, ref, 0.05).policy, atol=1e-8
    )


@pytest.mark.parametrize("method", ["highs", "interior"])
def test_larger_cycles_are_won_by_the_uniform_policy(method):
    n = 101
    ahead = (torch.arange(n)[None, :] - torch.arange(n)[:, None]) % n
    payoff = torch.where(ahead == 0, 0.5, torch.where(ahead <= n // 2, 0.8, 0.2)).double()
    assert torch.allclose(von_neumann_winner(payoff, method=method).policy, torch.full((n,), 1 / n).double(), atol=1e-6)


def test_a_tolerance_out_of_reach_raises_and_says_what_was_reached():
    with pytest.raises(NotConvergedError, match=r"reached a certificate of .* instead of 1.0e-30"):
        regularised_nash(COMAL, REF, 0.1, tol=1e-30)


@pytest.mark.parametrize(
    ("payoff", "ref", "tau", "message"),
    [
        (COMAL[:2], REF, 0.1, "must be square"),
        (COMAL + 0.01, REF, 0.1, r"misses it by 0.02"),
        (COMAL * math.nan, REF, 0.1, "9 NaN among 9"),
        (COMAL, torch.tensor([0.5, 0.5, 0.0]), 0.1, "ref must be positive everywhere, 1 entries are 0"),
        (COMAL, REF * 2, 0.1, "ref must sum to 1, but misses it by 1"),
        (COMAL, REF[:2], 0.1, r"ref must be \[..., 3\]"),
        (COMAL, REF, 0.0, "tau must be > 0, got 0.0"),
    ],
)
def test_what_is_no_game_is_refused_with_its_numbers(payoff, ref, tau, message):
    with pytest.raises(ValueError, match=message):
        regularised_nash(payoff, ref, tau)


@pytest.mark.parametrize(
    "solve",
    [
        lambda game, ref: von_neumann_winner(game),
        lambda game, ref: regularised_nash(game, ref, 1e-3),
        lambda game, ref: payoff_matrix(TableOracle(game, ["x"], list("abc")), "x", list("abc")),
    ],
)
def test_what_would_not_fit_into_memory_is_refused_with_the_numbers(solve, monkeypatch):
    free = psutil.virtual_memory()._replace(available=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    message = r"1 game of 3 responses would take 0.0 GiB \(2 matrices \[3, 3\] of float64 each\), and 0.0 GiB of cpu"
    with pytest.raises(ValueError, match=message):
        solve(COMAL, REF)


@pytest.mark.gpu
@pytest.mark.parametrize("tau", [1.0, 0.01, 1e-3])
def test_a_gpu_finds_the_same_equilibria(tau):
    many = [random_game(40, seed) for seed in range(30)]
    payoff, ref = torch.stack([p for p, _ in many]), torch.stack([r for _, r in many])
    there = regularised_nash(payoff.cuda(), ref.cuda(), tau)
    here = regularised_nash(payoff, ref, tau)
    assert there.policy.is_cuda
    assert (there.policy.cpu() - here.policy).abs().sum(1).max() < 1e-8
    winner = von_neumann_winner(payoff[0].cuda(), method="interior")
    assert winner.policy.is_cuda
    assert exploitability(payoff[0], winner.policy.cpu()) < 1e-9
