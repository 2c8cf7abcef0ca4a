"""Losses of single responses, worked out by hand, beside another library's, and as other losses in disguise."""

import json
import math

import pytest
import torch

from agents.losses import apo_zero, bco, bco_unpaired, d2o, dpo, dro, kto, npo, rebel, sppo
from tests.paths import GOLDEN


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_kto_of_known_log_ratios():
    """At beta 1 and z0 = 1 a ratio of 1 + log 3 is worth 3/4, one of 1 - log 3 a quarter."""
    ratio, point = double(1 + math.log(3), 1 - math.log(3)), double(1.0)
    assert kto(ratio, double(1.0, 1.0), point, 1.0).tolist() == pytest.approx([0.25, 0.75])
    assert kto(ratio, double(0.0, 0.0), point, 1.0, 1.0, 2.0).tolist() == pytest.approx([1.5, 0.5])
    assert kto(ratio, double(0.4, 0.4), point, 1.0, 3.0).tolist() == pytest.approx([0.3 + 0.45, 0.9 + 0.15])


def test_an_even_label_moves_kto_nowhere():
    ratio = double(0.7).requires_grad_()
    (gradient,) = torch.autograd.grad(kto(ratio, double(0.5), double(0.2), 0.3).sum(), ratio)
    assert gradient.abs() < 1e-15


def golden() -> list[dict]:
    """Batches and their losses as another library's own code gives them; the file says which, and its settings."""
    return json.loads((GOLDEN / "trl_losses.json").read_text(encoding="utf-8"))["batches"]


@pytest.mark.parametrize("batch", golden(), ids=lambda batch: str(batch["label"]))
def test_losses_of_batches_are_trls(batch):
    ratio, others = (
        double(*batch[policy]) - double(*batch[reference])
        for policy, reference in (("log_policy", "log_reference"), ("mismatched_policy", "mismatched_reference"))
    )
    label, point = double(*map(float, batch["label"])), others.mean().clamp(min=0)
    ours = {
        "kto": kto(ratio, label, point, 0.1),
        "kto weighted": kto(ratio, label, point, 0.1, 1.25, 0.75),
        "apo_zero_unpaired": kto(ratio, label, double(0.0), 0.1),
    }
    assert {name: value.mean().item() for name, value in ours.items()} == pytest.approx(batch["loss"], rel=1e-6)


def test_dro_is_zero_at_its_optimum_and_flat_there():
    """R = (0, 1, 1/2), tau 1/2 from (.5, .3, .2): V = tau log sum ref e^(R / tau)."""
    reward, start = double(0.0, 1.0, 0.5), double(0.5, 0.3, 0.2)
    value = 0.5 * torch.logsumexp(reward / 0.5 + start.log(), 0)
    ratio = ((reward - value) / 0.5).requires_grad_()
    loss = dro(ratio, reward, value, 0.5)
    assert loss.abs().max() < 1e-28
    assert torch.autograd.grad(loss.sum(), ratio)[0].abs().max() < 1e-14
    assert dro(double(0.5), double(1.0), double(0.25), 1.0).item() == pytest.approx(0.25**2 / 2)


def test_npo_at_the_start_is_gradient_ascent_on_the_loss_of_the_likelihood():
    """(2/b) log 2 with slope 1, which is 2 sigma(b r) elsewhere; a liked response counts by its likelihood alone."""
    ratio = double(0.0, 4.0).requires_grad_()
    loss = npo(ratio, double(0.0, 0.0), 0.1)
    (slope,) = torch.autograd.grad(loss.sum(), ratio)
    assert loss[0].item() == pytest.approx(13.862944, abs=1e-6)
    assert slope.tolist() == pytest.approx([1, 2 / (1 + math.exp(-0.4))])
    assert npo(double(0.7), double(1.0), 0.1).item() == 0
    assert npo(double(0.7), double(1.0), 0.1, 2.0).item() == pytest.approx(-1.4)
    assert npo(double(0.0), double(0.25), 0.1).item() == pytest.approx(0.75 * 13.862944)


def test_d2o_of_a_known_lead():
    """Own samples at 1 nat, beta 2, what is disliked at -.5, alpha 1: a lead of 2.5."""
    assert d2o(double(-0.5), double(1.0), 2.0, 1.0).item() == pytest.approx(math.log1p(math.exp(-2.5)))


def test_bco_of_a_known_reward():
    """A reward of 1.5 less a shift of .5 is log-odds of 1; a label of sigma(1) is where it is flat."""
    ratio, odds = double(3.0).requires_grad_(), double(1.0)
    assert bco_unpaired(ratio, double(1.0), double(0.5), 0.5).item() == pytest.approx(math.log1p(math.exp(-1)))
    (slope,) = torch.autograd.grad(bco_unpaired(ratio, odds.sigmoid(), double(0.5), 0.5).sum(), ratio)
    assert slope.abs() < 1e-15


@pytest.mark.parametrize("seed", range(5))
def test_identities_with_other_losses(seed):
    generator = torch.Generator().manual_seed(seed)
    ratio, win_rate, second = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    win_rate = win_rate.sigmoid()
    eta = 2.5
    ours, theirs = dro(ratio, win_rate, double(0.5), 1 / eta), sppo(ratio, win_rate, eta)
    assert torch.allclose(ours, theirs / (2 * eta**2), 0, 1e-12)
    one, none = torch.ones_like(ratio), torch.zeros_like(ratio)
    both = kto(ratio, one, double(0.0), 0.3) + kto(second, none, double(0.0), 0.3)
    assert torch.allclose(both, apo_zero(ratio, second, one, 0.3), 0, 1e-12)
    both = bco_unpaired(ratio, one, double(0.0), 0.3) + bco_unpaired(second, none, double(0.0), 0.3)
    assert torch.allclose(both, bco(ratio, second, one, 0.3), 0, 1e-12)
    assert torch.allclose(d2o(second, ratio, 0.3, 0.3), dpo(ratio - second, one, 0.3), 0, 1e-12)
    assert torch.allclose(npo(second, none, 0.3), 2 / 0.3 * dpo(-second, one, 0.3), 0, 1e-12)
    weight = torch.full_like(ratio, 1 / 6)
    mean, advantage = ratio.mean(1, keepdim=True), (win_rate - win_rate.mean(1, keepdim=True))
    kimi = dro(ratio, win_rate, win_rate.mean(1, keepdim=True), 1 / eta)
    assert torch.allclose(kimi, (rebel(ratio, win_rate, weight, eta) + mean).square() / (2 * eta**2), 0, 1e-12)
    assert torch.allclose(kimi, (advantage - ratio / eta).square() / 2, 0, 1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda r, q: kto(r, q, double(0.0), 0.1),
        lambda r, q: dro(r, q, double(0.0), 0.1),
        lambda r, q: npo(r, q, 0.1),
        lambda r, q: bco_unpaired(r, q, double(0.0), 0.1),
    ],
    ids=["kto", "dro", "npo", "bco_unpaired"],
)
def test_shapes_that_do_not_fit_are_refused(loss):
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        loss(torch.zeros(2), torch.zeros(3))
