"""Losses of single responses, worked out by hand, beside another library's, and as other losses in disguise."""

import json
import math

import pytest
import torch

from agents.losses import apo_zero, dro, kto, sppo
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


@pytest.mark.parametrize(
    "loss", [lambda r, q: kto(r, q, double(0.0), 0.1), lambda r, q: dro(r, q, double(0.0), 0.1)], ids=["kto", "dro"]
)
def test_shapes_that_do_not_fit_are_refused(loss):
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        loss(torch.zeros(2), torch.zeros(3))
