"""Losses of tokens, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from agents.losses import contrast, cringe, dpo, pairwise_cringe, tdpo, token_kl


def double(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PI = {(): double(0.7, 0.3).log(), (0,): double(0.6, 0.4).log(), (1,): double(0.2, 0.8).log()}
"""Of two letters: what comes first, and after each of them; the reference is even."""
EVEN = double(0.5, 0.5).log()


def scored(response):
    """Log-ratio and divergence of a response of two letters."""
    logits = torch.stack([PI[response[:t]] for t in range(2)])
    ratio = sum(row[token] - EVEN[token] for row, token in zip(logits, response, strict=True))
    return torch.stack([ratio, token_kl(logits, EVEN.expand(2, 2)).sum()])


@pytest.mark.parametrize(
    ("alpha", "stop", "expected"), [(0.0, False, 0.665558), (1.0, False, 0.675462), (0.5, True, 0.670497)]
)
def test_tdpo_of_two_letters(alpha, stop, expected):
    """DPO, TDPO1 and TDPO2 of 00 against 11 at beta .1."""
    loss = tdpo(scored((0, 0)), scored((1, 1)), double(1.0)[0], 0.1, alpha, stop)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_tdpo_without_alpha_is_dpo_and_its_gradient_flows_as_named():
    first, second = double([0.3, 0.1], [-1.0, 0.4]).requires_grad_(), double([-0.2, 0.7], [0.5, 0.2]).requires_grad_()
    prob = double(1.0, 0.25)
    plain = dpo(first[:, 0] - second[:, 0], prob, 0.3)
    assert torch.allclose(tdpo(first, second, prob, 0.3, 0.0, False), plain)
    winner, loser = torch.autograd.grad(tdpo(first, second, double(1.0, 1.0), 0.3, 0.5, True).sum(), [first, second])
    assert (winner[:, 1] == 0).all()
    assert torch.allclose(loser[:, 1], 0.5 * loser[:, 0])
    winner, loser = torch.autograd.grad(tdpo(first, second, double(1.0, 1.0), 0.3, 1.0, False).sum(), [first, second])
    assert torch.allclose(winner, winner[:, :1].expand(2, 2))
    assert torch.allclose(loser, -winner)


def test_divergence_of_the_next_token_where_few_can_stand():
    """KL((1/2, 1/2) || (1/4, 3/4)) = log(4/3)/2; a third token stands in neither."""
    logits = double([0.25, 0.75, 0.0], [1.0, 0.0, 0.0]).log().requires_grad_()
    kl = token_kl(logits, double([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]).log())
    assert kl.tolist() == pytest.approx([0.5 * math.log(4 / 3), 0.0])
    (gradient,) = torch.autograd.grad(kl.sum(), logits)
    assert torch.allclose(gradient, double([-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]))  # p - ref
    assert token_kl(double([1.0, 0.0]).log(), double([0.5, 0.5]).log()).item() == math.inf


def test_contrast_with_the_likeliest_other_token():
    logits = double([1.3, 0.4, -1.0], [1.3, 0.4, -1.0])
    found = contrast(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([1.241154, math.log1p(math.exp(0.4 - 1.3))], abs=1e-6)


def test_contrast_with_several_is_the_mean_over_the_draw_and_none_is_nothing():
    logits = double([1.0, 0.0, math.log(3), -torch.inf], [0.2, -torch.inf, -torch.inf, -torch.inf]).requires_grad_()
    found = contrast(logits, torch.tensor([0, 0]), k=2)
    softplus = [math.log1p(math.exp(1.0 - other)) for other in (0.0, math.log(3))]
    assert found.tolist() == pytest.approx([0.25 * softplus[0] + 0.75 * softplus[1], 0.0])
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, 1].item() == pytest.approx(-0.25 / (1 + math.exp(-1.0)))  # the chance gets no gradient
    assert (gradient[1] == 0).all()


def test_cringe_is_a_likelihood_of_the_liked_and_a_contrast_of_the_rest():
    score = double([-2.0, 0.7], [-2.0, 0.7], [-2.0, 0.7])
    assert cringe(score, double(1.0, 0.0, 0.5), 2.0).tolist() == pytest.approx([2.0, 1.4, 1.7])


def test_pairwise_cringe_counts_pairs_that_are_not_apart():
    """Far below the margin CRINGE's loss of both, far above nothing, at the margin half."""
    winner, loser = double([-2.0, 0.1]).requires_grad_(), double([-3.0, 0.7])
    for margin, share in ((1e3, 1.0), (1.0, 0.5), (-1e3, 0.0)):
        loss = pairwise_cringe(winner, loser, double(1.0), 2.0, margin, 1.0)
        assert loss.item() == pytest.approx(share * (2.0 + 1.4))
        (gradient,) = torch.autograd.grad(loss.sum(), winner)
        assert gradient.tolist() == [[pytest.approx(-share), 0.0]]
    mixed = pairwise_cringe(winner, loser, double(0.75), 1.0, 1e3, 1.0)
    assert mixed.item() == pytest.approx(0.75 * (2.0 + 0.7) + 0.25 * (3.0 + 0.1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: tdpo(double([0.0, 0.0]), double([0.0, 0.0]), double(1.0, 0.0), 0.1, 1.0, False),
        lambda: pairwise_cringe(double(0.0, 0.0), double(0.0, 0.0), double(1.0, 0.0), 1.0, 0.0, 1.0),
        lambda: cringe(double(0.0, 0.0), double(1.0, 0.0), 1.0),
        lambda: token_kl(double([0.0, 0.0]), double([0.0, 0.0, 0.0])),
        lambda: contrast(double([0.0, 0.0]), torch.tensor([0]), 0),
    ],
    ids=["tdpo", "pairwise_cringe", "cringe", "token_kl", "contrast"],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match=r"shape|two of|at least"):
        call()
