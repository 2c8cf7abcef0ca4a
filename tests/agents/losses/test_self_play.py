import math

import pytest
import torch
from torch import Tensor

from agents.losses import best_and_worst, bradley_terry, log_partition, sppo, win_rate

PROB = torch.tensor([[[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]]], dtype=torch.float64)


def random_game(seed: int, k: int = 5) -> Tensor:
    logits = torch.randn(3, k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.sigmoid(logits - logits.mT)


def test_win_rate_is_the_mean_of_a_row():
    assert torch.allclose(win_rate(PROB), torch.tensor([[1.6 / 3, 1.3 / 3, 1.6 / 3]]).double())


def test_win_rate_weighs_the_opponents():
    weight = torch.tensor([[0.5, 0.25, 0.25]])
    assert torch.allclose(win_rate(PROB, weight), torch.tensor([[0.525, 0.35, 0.6]]).double())


def test_leave_one_out_drops_the_tie_with_itself():
    assert torch.allclose(win_rate(PROB, leave_one_out=True), torch.tensor([[0.55, 0.4, 0.55]]).double())
    weight = torch.tensor([[0.5, 0.25, 0.25]])
    expected = torch.tensor([[0.55, (0.05 + 0.175) / 0.75, (0.4 + 0.075) / 0.75]]).double()
    assert torch.allclose(win_rate(PROB, weight, leave_one_out=True), expected)


def test_the_papers_mean_shrinks_the_advantage_by_one_in_k():
    prob = random_game(0)
    advantage, shrunk = win_rate(prob, leave_one_out=True) - 0.5, win_rate(prob) - 0.5
    assert torch.allclose(shrunk, 4 / 5 * advantage)


def test_leave_one_out_is_unbiased_over_samples():
    game, law = random_game(1)[:1], torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
    exact = game[0] @ law
    draws = torch.multinomial(law, 4 * 50_000, replacement=True, generator=torch.Generator().manual_seed(0)).view(-1, 4)
    draws[:, 0] = 2
    estimate = win_rate(game[0][draws[:, :, None], draws[:, None, :]], leave_one_out=True)[:, 0]
    assert abs(estimate.mean() - exact[2]) < 4 * estimate.std() / 50_000**0.5


@pytest.mark.parametrize(
    ("prob", "weight", "leave_one_out", "message"),
    [
        (torch.ones(2, 3), None, False, r"prob must be \[B, K, L\]"),
        (torch.ones(2, 3, 3), torch.ones(2, 2), False, "one for each right response"),
        (torch.ones(2, 3, 2), None, True, "same K >= 2 draws on both sides, got 3 left and 2 right"),
        (torch.ones(2, 1, 1), None, True, "draw more responses"),
    ],
)
def test_win_rate_refuses_what_it_cannot_average(prob, weight, leave_one_out, message):
    with pytest.raises(ValueError, match=message):
        win_rate(prob, weight, leave_one_out)


def test_sppo_is_the_squared_distance_from_its_target():
    ratio, rate = torch.tensor([[0.3, -0.1]]), torch.tensor([[0.75, 0.25]])
    assert torch.allclose(sppo(ratio, rate, eta=2.0), torch.tensor([[0.04, 0.16]]))
    assert torch.allclose(sppo(ratio, rate, eta=2.0, log_z=torch.tensor([1.1])), torch.tensor([[0.01, 0.25]]))


def test_sppo_is_flat_at_the_exponential_weights_update():
    prob = random_game(2)
    law = torch.softmax(prob[:, 0], dim=1)
    rate, eta = win_rate(prob, law), 3.0
    log_z = log_partition(rate, eta, law)
    ratio = (eta * rate - log_z[:, None]).requires_grad_()
    sppo(ratio, rate, eta, log_z).sum().backward()
    assert ratio.grad is not None
    assert torch.equal(ratio.grad, torch.zeros_like(ratio))
    assert torch.allclose((law * ratio.exp()).sum(1), torch.ones(3).double())


def test_sppo_pulls_winners_up_and_losers_down():
    ratio = torch.zeros(1, 3, requires_grad=True)
    sppo(ratio, torch.tensor([[1.0, 0.5, 0.0]]), eta=1.0).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.sign().tolist() == [[-1, 0, 1]]


def test_sppo_is_half_of_trls_sppo_hard_where_the_winner_is_certain():
    ratio, beta = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)), 0.3
    hard = (ratio[:, 0] - 0.5 / beta) ** 2 + (ratio[:, 1] + 0.5 / beta) ** 2
    ours = sppo(ratio, torch.tensor([[1.0, 0.0]]).expand(7, 2), eta=1 / beta).mean(1)
    assert torch.allclose(hard, 2 * ours)


@pytest.mark.parametrize("log_z", [None, torch.zeros(3)])
def test_sppo_refuses_shapes_that_would_broadcast(log_z):
    with pytest.raises(ValueError, match=r"must .*be"):
        sppo(torch.zeros(2, 2), torch.zeros(2, 1) if log_z is None else torch.zeros(2, 2), 1.0, log_z)


def test_log_partition_is_the_log_of_the_mean_exponential():
    rate = torch.tensor([[1.0, 0.0]])
    assert torch.allclose(log_partition(rate, 1.0), torch.tensor([math.log((math.e + 1) / 2)]))
    assert torch.allclose(log_partition(rate, 1.0, torch.tensor([[1.0, 0.0]])), torch.tensor([1.0]))


@pytest.mark.parametrize("eta", [0.01, 0.3, 2.0])
def test_half_of_eta_is_the_log_partition_up_to_hoeffding(eta):
    prob = random_game(3)
    law = torch.softmax(5 * prob[:, 1], dim=1)
    excess = log_partition(win_rate(prob, law), eta, law) - eta / 2
    assert (excess >= -1e-15).all()
    assert (excess <= eta**2 / 8).all()


def test_log_partition_refuses_weights_of_another_shape():
    with pytest.raises(ValueError, match=r"must both be \[B, K\]"):
        log_partition(torch.zeros(2, 3), 1.0, torch.zeros(2, 2))


def test_best_and_worst_are_the_ends_of_the_win_rates():
    assert best_and_worst(torch.tensor([[0.4, 0.9, 0.1], [0.5, 0.5, 0.5]])).tolist() == [[1, 2], [0, 2]]
    with pytest.raises(ValueError, match="K >= 2"):
        best_and_worst(torch.zeros(2, 1))


def test_projection_hides_a_cycle():
    logits = torch.tensor([[[0.0, 2, -2], [-2, 0, 2], [2, -2, 0]]], dtype=torch.float64)
    prob = torch.sigmoid(logits)
    assert torch.allclose(prob[0, 0], torch.tensor([0.5, 0.8808, 0.1192]).double(), atol=5e-5)
    assert torch.allclose(bradley_terry(prob), torch.full((1, 3, 3), 0.5).double(), atol=1e-12)


def test_projection_keeps_a_bradley_terry_game():
    rewards = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prob = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    weight = torch.softmax(rewards, dim=1)
    assert torch.allclose(bradley_terry(prob), prob)
    assert torch.allclose(bradley_terry(prob, weight), prob)


def test_projection_scores_each_response_by_its_mean_logit():
    logits = torch.tensor([[[0.0, 3, 0], [-3, 0, 1], [0, -1, 0]]], dtype=torch.float64)
    scores = torch.tensor([1, -2 / 3, -1 / 3], dtype=torch.float64)
    assert torch.allclose(bradley_terry(torch.sigmoid(logits))[0], torch.sigmoid(scores[:, None] - scores[None, :]))


def test_projection_is_finite_for_certain_outcomes():
    prob = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]])
    assert torch.allclose(bradley_terry(prob), prob, atol=1e-5)
    with pytest.raises(ValueError, match="same responses on both sides"):
        bradley_terry(torch.zeros(1, 2, 3))
