"""Functions of a margin and slopes of divergences, against their definitions and identities."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from agents.losses import discopop, dpo, gpo, hinge, ipo
from agents.losses.classification import FUNCTIONS
from agents.losses.divergences import alpha_divergence, forward_kl, jensen_shannon


def double(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "at_half"),
    [
        ("logistic", math.log1p(math.exp(-0.5))),
        ("exponential", math.exp(-0.5)),
        ("squared", 0.25),
        ("truncated_quadratic", 0.25),
        ("hinge", 0.5),
        ("savage", 1 / (1 + math.exp(0.5)) ** 2),
    ],
)
def test_each_function_falls_at_0(name, at_half):
    function = FUNCTIONS[name]
    assert function(double(0.5)).item() == pytest.approx(at_half)
    zero = double(0.0).requires_grad_()
    assert torch.autograd.grad(function(zero).sum(), zero)[0].item() < 0


def test_gpo_holds_dpo_ipo_and_the_hinge():
    margin, prob = torch.linspace(-4, 4, 9, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(gpo(margin, prob, 0.4, FUNCTIONS["logistic"]), dpo(margin, prob, 0.4))
    assert torch.allclose(gpo(margin, prob, 0.4, FUNCTIONS["hinge"]), hinge(margin, prob, 0.4))
    sure = (prob > 0.5).double()
    assert torch.allclose(gpo(margin, sure, 0.4, FUNCTIONS["squared"]), 0.4**2 * ipo(margin, sure, 0.2))


def test_far_margins_give_finite_numbers_in_float32():
    margin = torch.tensor([-2000.0, 2000.0], requires_grad=True)
    blend = partial(discopop, beta=0.1, temperature=0.05)
    for loss in (blend, *(partial(gpo, beta=0.1, function=function) for function in FUNCTIONS.values())):
        found = loss(margin, torch.ones(2))
        (gradient,) = torch.autograd.grad(found.sum(), margin)
        assert found.isfinite().all()
        assert gradient.isfinite().all()
    ratio = torch.tensor([-2000.0, 2000.0], requires_grad=True)
    for slope in (forward_kl(ratio), jensen_shannon(ratio), alpha_divergence(ratio, 0.5)):
        assert slope.isfinite().all()


def test_discopop_of_known_margins_rises_at_0():
    """At 0 it is the mean of log 2 and 1, and its slope 5 (1 - log 2) - 3/4 at tau .05: above 0."""
    zero = double(0.0).requires_grad_()
    found = discopop(zero, double(1.0), 1.0, 0.05)
    assert found.item() == pytest.approx((1 + math.log(2)) / 2)
    assert torch.autograd.grad(found.sum(), zero)[0].item() == pytest.approx(5 * (1 - math.log(2)) - 0.75)
    sure = discopop(double(2.0, -2.0), double(1.0, 1.0), 1.0, 0.05)
    assert torch.allclose(sure, double(math.exp(-2.0), math.log1p(math.exp(2.0))))


def test_slopes_are_the_derivatives_of_their_divergences():
    """Of f(t) = -log t, t log(2t / (1 + t)) + log(2 / (1 + t)) and the alpha divergence's, at t = e^ratio."""
    t = double(0.3, 1.0, 2.5).requires_grad_()
    divergences = {
        forward_kl: -t.log(),
        jensen_shannon: t * (2 * t / (1 + t)).log() + (2 / (1 + t)).log(),
        lambda ratio: alpha_divergence(ratio, 0.5): (t ** (1 - 0.5) - (1 - 0.5) * t - 0.5) / (0.5 * (0.5 - 1)),
    }
    for slope, value in divergences.items():
        (derivative,) = torch.autograd.grad(value.sum(), t)
        assert torch.allclose(slope(t.detach().log()), derivative.detach()), slope


def test_towards_alpha_0_the_slope_is_the_log_ratio():
    ratio = double(-1.0, 0.0, 2.0)
    assert torch.allclose(alpha_divergence(ratio, 1e-7), ratio, atol=1e-5)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        gpo(torch.zeros(2), torch.zeros(3), 0.1, FUNCTIONS["squared"])
