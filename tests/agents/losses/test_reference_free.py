"""Losses without a reference, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from agents.losses import cpo, hinge, orpo, simpo, slic


def double(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_slic_of_known_log_probabilities():
    """Delta 1: a lead of .4 lacks .6, one of 2 nothing; the winner's log-probability counts .1."""
    first, second = double(-1.0, -1.0), double(-1.4, -3.0)
    assert torch.allclose(slic(first, second, double(1.0, 1.0), 1.0, 0.1), double(0.6 + 0.1, 0.1))
    assert torch.allclose(slic(first, second, double(0.0, 0.0), 1.0, 0.1), double(1.4 + 0.14, 3.0 + 0.3))


def test_slic_is_the_hinge_of_margins_times_its_delta():
    first, second, prob = double(-1.0, -2.0, -0.3), double(-2.5, -1.0, -0.4), double(1.0, 0.3, 0.6)
    assert torch.allclose(slic(first, second, prob, 2.0, 0.0), 2.0 * hinge(first - second, prob, 0.5))


def test_simpo_of_known_means_and_where_it_is_flat():
    """Beta 2, gamma .5: a lead of .75 nats a token is a reward of 1.5, less gamma 1."""
    assert simpo(double(-1.0), double(-1.75), double(1.0), 2.0, 0.5).item() == pytest.approx(math.log1p(math.exp(-1.0)))
    lead = double(math.log(3) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(simpo(lead, double(0.0), double(0.75), 2.0, 0.0).sum(), lead)
    assert gradient.abs() < 1e-12


def test_cpo_adds_the_winners_likelihood():
    even = cpo(double(-2.0), double(-2.0), double(0.75), 0.1, 0.5).item()
    assert even == pytest.approx(math.log(2) + 1.0)
    likely = cpo(double(-2.0), double(-4.0), double(1.0), 0.5, 1.0).item()
    assert likely == pytest.approx(math.log1p(math.exp(-1.0)) + 2.0)


def test_orpo_of_known_odds_and_where_it_is_flat():
    """Mean probabilities 1/2 and 1/4 have odds 1 and 1/3: their ratio is 3, its sigma 3/4."""
    first, second = double(math.log(0.5)), double(math.log(0.25))
    found = orpo(first, second, double(1.0), 0.2).item()
    assert found == pytest.approx(math.log(2) - 0.2 * math.log(0.75))
    even = double(0.0).requires_grad_()  # the first's log odds on two responses
    policy = torch.nn.functional.logsigmoid(even), torch.nn.functional.logsigmoid(-even)
    (gradient,) = torch.autograd.grad(orpo(*policy, double(0.5), 0.2).sum(), even)
    assert gradient.abs() < 1e-12


def test_orpo_of_a_certain_response_is_finite():
    certain = double(0.0).requires_grad_()
    loss = orpo(certain, double(-1.0), double(1.0), 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), certain)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_wrong_shapes_are_refused():
    two, three = torch.zeros(2), torch.zeros(3)
    for loss in (lambda: slic(two, two, three, 1.0, 0.1), lambda: simpo(two, two, three, 1.0, 0.1),
                 lambda: cpo(two, two, three, 1.0, 0.1), lambda: orpo(two - 1, two - 1, three, 0.1)):  # fmt: skip
        with pytest.raises(ValueError, match="must broadcast to the shape of prob"):
            loss()
