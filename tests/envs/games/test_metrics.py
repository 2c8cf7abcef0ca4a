"""Exact metrics by hand, near rounding, in batches, and of inputs that are no games."""

import math

import pytest
import torch

from envs.games import (
    best_response,
    duality_gap,
    exploitability,
    kl_divergence,
    payoff_matrix,
    regularised_exploitability,
)
from oracles.table import TableOracle
from tests.envs.games.matrices import COMAL, REF, double


def random_games(count: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, n, n, generator=generator, dtype=torch.float64)
    policies = torch.randn(2, count, n, generator=generator, dtype=torch.float64).softmax(-1)
    return torch.sigmoid(logits - logits.mT), policies[0], policies[1]


def test_a_pure_policy_is_exploited_by_its_worst_opponent():
    pure = double([1, 0, 0])
    assert exploitability(COMAL, pure).item() == pytest.approx(0.4)
    assert duality_gap(COMAL, pure).item() == pytest.approx(0.8)


def test_the_von_neumann_winner_cannot_be_exploited():
    winner = double([4, 3, 4]) / 11
    assert exploitability(COMAL, winner).item() == pytest.approx(0, abs=1e-15)
    assert exploitability(COMAL, double([4, 4, 3]) / 11).item() > 0.01


def test_the_gap_is_twice_the_exploitability():
    payoff, policy, _ = random_games(20, 7)
    assert torch.allclose(duality_gap(payoff, policy), 2 * exploitability(payoff, policy), atol=1e-14)


def test_a_best_response_shifts_the_reference_by_win_rate_over_tau():
    odds = best_response(COMAL, double([1, 0, 0]), double([0.5, 0.25, 0.25]), 0.2)
    assert (odds[1] / odds[0]).item() == pytest.approx(0.5 * math.exp((0.9 - 0.5) / 0.2))
    assert best_response(COMAL, REF, double([0.5, 0.5, 0]), 0.2)[2].item() == 0


def test_regularised_exploitability_is_half_the_regularised_gap():
    payoff, policy, ref = random_games(20, 6)
    tau = 0.3

    def value(first, second):
        win = torch.einsum("bi,bij,bj->b", first, payoff, second)
        return win - tau * kl_divergence(first, ref) + tau * kl_divergence(second, ref)

    response = best_response(payoff, policy, ref, tau)
    gap = value(response, policy) - value(policy, response)
    assert torch.allclose(2 * regularised_exploitability(payoff, policy, ref, tau), gap, atol=1e-12)


def test_regularised_exploitability_survives_a_tiny_tau():
    value = regularised_exploitability(COMAL, double([1 / 3, 1 / 3, 1 / 3]), REF, 1e-4).item()
    assert value == pytest.approx(exploitability(COMAL, double([1 / 3, 1 / 3, 1 / 3])).item(), abs=1e-3)


@pytest.mark.parametrize("shift", [1e-12, 1e-9, 1e-6, 4e-4, 6e-4, 1e-3, 0.1, 0.4, 0.499999])
def test_kl_keeps_its_digits_near_equality(shift):
    """KL of (1/2, 1/2) from (1/2 + s, 1/2 - s) is -log(1 - 4 s^2) / 2."""
    exact = -0.5 * math.log1p(-4 * shift**2)
    near = 0.5 + shift, 0.5 - shift
    rounding = abs((near[0] - 0.5) / shift - 1)
    assert kl_divergence(double([0.5, 0.5]), double(near)).item() == pytest.approx(exact, rel=1e-9 + 3 * rounding)


def test_kl_is_zero_at_equality_and_infinite_off_the_support():
    policy = double([0.2, 0.8, 0])
    assert kl_divergence(policy, policy).item() == 0
    assert kl_divergence(policy, double([0, 1, 0])).item() == math.inf
    assert kl_divergence(double([0, 1, 0]), policy).item() == pytest.approx(math.log(1 / 0.8))


def test_batches_equal_single_games():
    payoff, policy, ref = random_games(5, 4)
    for metric, extra in ((exploitability, ()), (duality_gap, ()), (regularised_exploitability, (ref, 0.2))):
        batched = metric(payoff, policy, *extra)
        rows = [metric(payoff[b], policy[b], *(x[b] if torch.is_tensor(x) else x for x in extra)) for b in range(5)]
        assert torch.allclose(batched, torch.stack(rows), atol=1e-15)


def test_one_game_judges_many_policies():
    _, policies, _ = random_games(5, 3)
    assert exploitability(COMAL, policies).shape == (5,)


def test_payoff_matrix_is_what_the_oracle_says_in_float64():
    oracle = TableOracle(COMAL, ["x", "y"], ["a", "b", "c"])
    assert torch.allclose(payoff_matrix(oracle, "x", ["a", "b", "c"]), COMAL, atol=1e-15)
    both = payoff_matrix(oracle, ["x", "y"], ["c", "a"])
    assert both.dtype == torch.float64
    assert torch.allclose(both, double([[0.5, 0.2], [0.8, 0.5]]).expand(2, 2, 2), atol=1e-15)


@pytest.mark.parametrize(
    ("payoff", "message"),
    [
        (COMAL[:2], r"square, \[..., N, N\], got \(2, 3\)"),
        (COMAL - 0.5, "lie in \\[0, 1\\], got -0.4 to 0.4"),
        (double([[0.5, 0.9], [0.2, 0.5]]), "misses it by 0.1 at i=0, j=1"),
        (double([[0.5, math.nan], [0.2, 0.5]]), "1 NaN among 4"),
    ],
)
def test_a_matrix_that_is_no_game_is_refused(payoff, message):
    with pytest.raises(ValueError, match=message):
        exploitability(payoff, double([1 / payoff.shape[-1]] * payoff.shape[-1]))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([0.5, 0.5], r"policy must be \[..., 3\], got \(2,\)"),
        ([0.5, 0.5, 0.1], "sum to 1, but misses it by 0.1"),
        ([1.5, -0.5, 0], "negative entries, got -0.5"),
        ([math.nan, 0.5, 0.5], "must not hold NaN"),
    ],
)
def test_a_vector_that_is_no_distribution_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        duality_gap(COMAL, double(policy))


def test_tau_must_be_positive():
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        best_response(COMAL, REF, REF, 0)
