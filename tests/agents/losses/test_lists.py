"""Losses of lists, worked out by hand."""

import json
import math
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor

from agents.losses import (
    dpo,
    expected_plackett_luce,
    lipo_lambda,
    mean_log_odds,
    of_best,
    plackett_luce,
    pro,
    rrhf,
    simpo,
)
from tests.paths import GOLDEN

SCORE, MEAN, REWARD = (0.2, 0.5, -0.1), (-1.0, -0.8, -2.0), (2.0, 1.0, -0.5)


def double(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def of_list(loss, score, label, counted=None):
    score = double(score)
    return loss(score, double(label), score < torch.inf if counted is None else torch.tensor([counted])).item()


def gap(first, second):
    return abs(1 / math.log(1 + first) - 1 / math.log(1 + second))


def test_lipo_weighs_pairs_by_gain_and_discount():
    """The scores rank the responses second, first, third."""
    swaps = [
        (2 - 2**0.5) * gap(2, 1) * math.log1p(math.exp(0.3)),
        (2 - 1) * gap(2, 3) * math.log1p(math.exp(-0.3)),
        (2**0.5 - 1) * gap(1, 3) * math.log1p(math.exp(-0.6)),
    ]
    assert of_list(lipo_lambda, SCORE, (1.0, 0.5, 0.0)) == pytest.approx(sum(swaps))
    assert sum(swaps) == pytest.approx(0.501909, abs=1e-6)


@pytest.mark.parametrize("one", json.loads((GOLDEN / "list_losses.json").read_text(encoding="utf-8"))["lists"])
def test_losses_are_those_of_allrank(one):
    """`lambdaRank` times its normaliser, and `listMLE`; see benchmarks/allrank_losses.py."""
    ours = {loss.__name__: of_list(loss, one["score"], one["label"]) for loss in (lipo_lambda, plackett_luce)}
    assert ours == pytest.approx(one["loss"], rel=1e-6)


def test_rounding_decides_no_rank():
    exact, rounded = (of_list(lipo_lambda, (0.2, 0.2 + noise, 0.1), (0.0, 1.0, 0.5)) for noise in (0.0, 1e-12))
    assert rounded == pytest.approx(exact)


def test_plackett_luce_draws_one_after_the_other():
    first = math.exp(0.2) / (math.exp(0.2) + math.exp(0.5) + math.exp(-0.1))
    second = math.exp(0.5) / (math.exp(0.5) + math.exp(-0.1))
    assert of_list(plackett_luce, SCORE, (3.0, 2.0, 1.0)) == pytest.approx(-math.log(first * second))
    assert -math.log(first * second) == pytest.approx(1.565878, abs=1e-6)


def test_plackett_luce_makes_up_no_order_of_ties():
    """Both best ones are drawn from all three: an order of theirs plays no part."""
    tied = 2 * math.log(sum(map(math.exp, SCORE))) - 0.2 - 0.5
    assert of_list(plackett_luce, SCORE, (1.0, 1.0, 0.0)) == pytest.approx(tied)


def test_pro_contrasts_each_response_with_those_after_it():
    first = math.log(math.exp(-2.5) + math.exp(-0.8) + math.exp(-2.0 * 2.5)) + 2.5
    second = math.log(math.exp(-0.8 * 1.5) + math.exp(-2.0 * 1.5)) + 0.8 * 1.5
    assert of_list(pro, MEAN, REWARD) == pytest.approx(first + second)
    assert first + second == pytest.approx(2.033363, abs=1e-6)


def test_rrhf_charges_what_is_in_the_wrong_order():
    assert of_list(rrhf, MEAN, REWARD) == pytest.approx(0.2)
    assert of_list(rrhf, MEAN, (1.0, 2.0, -0.5)) == 0
    assert of_best(double(MEAN), double(REWARD), double(MEAN) < 0).item() == -1.0


def test_of_two_responses_they_are_the_losses_of_pairs():
    score, margin, won = (0.7, 0.3), double(0.4), double(1.0)
    logistic = dpo(margin, won, 1.0).item()
    assert of_list(plackett_luce, score, (1.0, 0.0)) == pytest.approx(logistic)
    weight = (2**1.0 - 2**0.25) * gap(1, 2)
    assert of_list(lipo_lambda, score, (1.0, 0.25)) == pytest.approx(weight * logistic)
    lead = simpo(double(-1.0), double(-0.8), won, 1.5, 0.0).item()
    assert of_list(pro, (-1.0, -0.8), (2.0, 0.5)) == pytest.approx(lead)
    prob = torch.sigmoid(double(1.2))
    assert of_list(expected_plackett_luce, score, (1.0, -0.2)) == pytest.approx(dpo(margin, prob, 1.0).item())


def test_the_expected_loss_is_the_mean_over_rankings():
    score, reward = (0.3, -0.2, 1.0, 0.1), (0.5, 0.0, -1.0, 0.7)
    expected = 0.0
    for order in permutations(range(4)):
        label = [float(-order.index(i)) for i in range(4)]
        chance = math.exp(-of_list(plackett_luce, reward, label))
        expected += chance * of_list(plackett_luce, score, label)
    assert of_list(expected_plackett_luce, score, reward) == pytest.approx(expected)
    at_rewards = (double(reward) + 3.0).requires_grad_()
    loss = expected_plackett_luce(at_rewards, double(reward), at_rewards < torch.inf)
    (gradient,) = torch.autograd.grad(loss.sum(), at_rewards)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [lipo_lambda, plackett_luce, expected_plackett_luce, pro, rrhf])
def test_what_does_not_count_plays_no_part(loss):
    label, score = (*REWARD, 5.0), double((*MEAN, 9.0)).requires_grad_()
    found = loss(score, double(label), torch.tensor([[True, True, True, False]]))
    assert found.item() == pytest.approx(of_list(loss, MEAN, REWARD))
    (gradient,) = torch.autograd.grad(found.sum(), score)
    assert gradient.isfinite().all()
    assert gradient[0, 3] == 0


@pytest.mark.parametrize("loss", [lipo_lambda, pro, rrhf])
def test_a_list_of_ties_teaches_nothing(loss):
    score = double(MEAN).requires_grad_()
    found = loss(score, double((0.5, 0.5, 0.5)), score < 0)
    (gradient,) = torch.autograd.grad(found.sum(), score)
    assert found.item() == 0
    assert gradient.abs().max() == 0


def test_mean_log_odds_are_the_scores_of_a_list():
    reward = double(REWARD)
    prob = torch.sigmoid(reward[:, :, None] - reward[:, None, :])
    assert torch.allclose(mean_log_odds(prob), reward - reward.mean())


def test_wrong_shapes_and_long_lists_are_refused():
    two, three = torch.zeros(1, 2), torch.zeros(1, 3)
    for loss in (lipo_lambda, plackett_luce, expected_plackett_luce, pro, rrhf, of_best):
        with pytest.raises(ValueError, match=r"must be \[B, K\] of one shape, got \(1, 2\), \(1, 3\)"):
            loss(two, three, three == 0)
    long = torch.zeros(1, 11)
    with pytest.raises(ValueError, match="the subsets of at most 10 responses, got 11; build the policy without exact"):
        partial(expected_plackett_luce, long, long)(long == 0)
