import json
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from agents.losses import (
    apo_down,
    apo_zero,
    bco,
    cpo,
    discopop,
    dpo,
    dpop,
    exo,
    hinge,
    ipo,
    nca,
    orpo,
    pair_weight,
    robust_dpo,
    simpo,
    sppo,
)
from agents.losses.divergences import alpha_divergence, forward_kl, jensen_shannon
from tests.paths import GOLDEN


def double(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ipo_of_known_margins():
    margin, prob = double(0.0, 1.0, 5.0), double(1.0, 0.75, 1.0)
    assert torch.allclose(ipo(margin, prob, 0.1), double(25.0, 2.25, 0.0))


def test_ipo_of_a_probability_is_the_mean_over_outcomes_but_for_a_constant():
    margin = torch.linspace(-3, 3, 7, dtype=torch.float64)
    won, lost = ipo(margin, torch.ones(7).double(), 0.5), ipo(margin, torch.zeros(7).double(), 0.5)
    difference = 0.8 * won + 0.2 * lost - ipo(margin, torch.full((7,), 0.8).double(), 0.5)
    assert torch.allclose(difference, difference[:1].expand(7))


def test_ipo_has_no_gradient_at_its_target():
    margin = double(0.25 / 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(ipo(margin, double(0.75), 0.1).sum(), margin)
    assert gradient.abs() < 1e-12


def test_dpo_of_known_margins():
    margin = double(0.0, 10.0, -10.0)
    log_two, near, far = math.log(2), math.log1p(math.exp(-1.0)), math.log1p(math.exp(1.0))
    assert torch.allclose(dpo(margin, double(1.0, 1.0, 1.0), 0.1), double(log_two, near, far))
    assert torch.allclose(dpo(margin, double(0.5, 0.0, 0.0), 0.1), double(log_two, far, near))
    smooth = dpo(margin, double(1.0, 1.0, 1.0), 0.1, label_smoothing=0.25)
    assert torch.allclose(smooth, double(log_two, 0.75 * near + 0.25 * far, 0.75 * far + 0.25 * near))


def test_dpo_has_no_gradient_where_the_model_says_the_probability():
    margin = double(math.log(3) / 0.2).requires_grad_()
    (gradient,) = torch.autograd.grad(dpo(margin, double(0.75), 0.2).sum(), margin)
    assert gradient.abs() < 1e-12


def test_pairs_of_samples_leave_out_the_one_with_itself():
    third = double([1 / 3] * 3)
    asked = ~torch.eye(3, dtype=torch.bool)[None]
    assert torch.allclose(pair_weight(third, third, asked), asked.double() / 6)
    asked[0, 0, 1] = asked[0, 1, 0] = False
    assert torch.allclose(pair_weight(third, third, asked), asked.double() / 4)


def test_pairs_of_whole_laws_count_as_often_as_they_are_drawn():
    law = double([0.2, 0.8])
    weight = pair_weight(law, law, ~torch.eye(2, dtype=torch.bool)[None], exact=True)
    assert torch.allclose(weight, double([[0.04, 0.16], [0.16, 0.64]]))


def test_independent_pairs_make_the_loss_unbiased():
    """The mean over all sets of three draws is the loss of the whole law."""
    law, score = double(0.2, 0.3, 0.5), double(0.3, -0.2, 1.0)
    margin = score[:, None] - score
    prob = double([0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5])
    loss = ipo(margin, prob, 0.5)
    third, mean = double([1 / 3] * 3), 0.0
    asked = ~torch.eye(3, dtype=torch.bool)[None]
    for draws in torch.cartesian_prod(*[torch.arange(3)] * 3):
        drawn = loss[draws][:, draws]
        mean += law[draws].prod() * (pair_weight(third, third, asked) * drawn).sum()
    assert torch.allclose(mean, law @ loss @ law)


def test_wrong_shapes_are_refused():
    for loss in (lambda a, b: ipo(a, b, 1.0), lambda a, b: dpo(a, b, 1.0)):
        with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
            loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"asked must be \(1, 2, 2\)"):
        pair_weight(double([0.5, 0.5]), double([0.5, 0.5]), torch.ones(1, 2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no asked pair"):
        pair_weight(double([1.0]), double([1.0]), torch.zeros(1, 1, 1, dtype=torch.bool))


def test_dpo_on_two_arms_never_stops_and_ipo_does():
    """Gradient flow: DPO's margin solves exp(beta h) + beta h - 1 = 2 beta^2 t, h about ln(1 + 2 beta^2 t)/beta."""
    betas, steps = (0.1, 0.5, 1.0), 4_000
    logits = torch.zeros(len(betas), 2, dtype=torch.float64, requires_grad=True)
    step = 0.1 / torch.tensor(betas, dtype=torch.float64)[:, None] ** 2
    one = torch.ones(1, dtype=torch.float64)
    for _ in range(steps):
        margin = logits[:, 0] - logits[:, 1]
        loss = sum(dpo(margin[i : i + 1], one, beta).sum() for i, beta in enumerate(betas))
        (gradient,) = torch.autograd.grad(loss, logits)
        logits.data -= step * gradient
    time = 0.2 * steps
    for beta, margin in zip(betas, (logits[:, 0] - logits[:, 1]).tolist(), strict=True):
        assert math.exp(beta * margin) + beta * margin - 1 == pytest.approx(time, rel=1e-3)
        assert margin == pytest.approx(math.log(1 + time) / beta, rel=2e-3)
        still = torch.tensor([1 / (2 * beta)], dtype=torch.float64, requires_grad=True)
        ipo(still, one, beta).sum().backward()
        assert still.grad.item() == pytest.approx(0, abs=1e-12)


def golden() -> list[dict]:
    """Pairs and their losses as another library's own code gives them; the file says which, and its settings."""
    return json.loads((GOLDEN / "trl_losses.json").read_text(encoding="utf-8"))["pairs"]


@pytest.mark.parametrize("pair", golden(), ids=lambda pair: str(pair["lengths"]))
def test_losses_are_trls(pair):
    first, second = double(pair["chosen"] - pair["ref_chosen"]), double(pair["rejected"] - pair["ref_rejected"])
    won, lengths = double(1.0), pair["lengths"]
    margin = first - second
    ours = {
        "sigmoid": dpo(margin, won, 0.1),
        "ipo": ipo(first / lengths[0] - second / lengths[1], won, 0.1),
        "hinge": hinge(margin, won, 0.5),
        "robust": robust_dpo(margin, won, 0.1, 0.1),
        "exo_pair": exo(margin, won, 0.1, 0.05),
        "nca_pair": nca(first, second, won, 0.1),
        "sppo_hard": sppo(torch.stack([first, second], 1), double([1.0, 0.0]), eta=10.0).sum(1),
        "bco_pair": bco(first, second, won, 0.1),
        "apo_zero": apo_zero(first, second, won, 0.1),
        "apo_down": apo_down(first, second, won, 0.1),
        "discopop": discopop(margin, won, 0.1, 0.05),
        "sigmoid_norm": dpo(first / lengths[0] - second / lengths[1], won, 0.1),
        "forward_kl": dpo(forward_kl(first) - forward_kl(second), won, 0.1),
        "js_divergence": dpo(jensen_shannon(first) - jensen_shannon(second), won, 0.1),
        "alpha_divergence": dpo(alpha_divergence(first, 0.5) - alpha_divergence(second, 0.5), won, 0.1),
        "cpo": cpo(double(pair["chosen"]), double(pair["rejected"]), won, 0.1, 0.0),
        "simpo": simpo(double(pair["chosen"]) / lengths[0], double(pair["rejected"]) / lengths[1], won, 2.5, 0.5),
        "orpo": orpo(double(pair["chosen"]) / lengths[0], double(pair["rejected"]) / lengths[1], won, 0.1),
    }
    assert {name: value.item() for name, value in ours.items()} == pytest.approx(pair["loss"], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_identities_between_losses(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second, prob = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    prob, margin = prob.sigmoid(), first - second
    assert torch.allclose(robust_dpo(margin, prob, 0.3, 0.0), dpo(margin, prob, 0.3))
    assert torch.allclose((0.4 * margin - 1).square(), 0.4**2 * ipo(margin, torch.ones_like(prob), 0.2))
    for loss in (
        lambda m, p: hinge(m, p, 0.3),
        lambda m, p: robust_dpo(m, p, 0.3, 0.2),
        lambda m, p: exo(m, p, 0.3, 0.1),
    ):
        assert torch.allclose(loss(margin, prob), loss(-margin, 1 - prob))
    for loss in (nca, bco, apo_zero, apo_down, partial(dpop, lam=2.0), partial(cpo, alpha=0.5)):
        assert torch.allclose(loss(first, second, prob, 0.3), loss(second, first, 1 - prob, 0.3))
        assert loss(first[:, None], second[None, :], prob.expand(50, 50), 0.3).shape == (50, 50)
    assert torch.allclose(dpop(first, second, prob, 0.3, 0.0), dpo(margin, prob, 0.3))
    assert torch.allclose(cpo(first, second, prob, 0.3, 0.0), dpo(margin, prob, 0.3))
    assert torch.allclose(simpo(first, second, prob, 0.3, 0.0), dpo(margin, prob, 0.3))
    noisy = 0.8 * prob + 0.2 * (1 - prob)
    assert torch.allclose(robust_dpo(margin, noisy, 0.3, 0.2), dpo(margin, prob, 0.3))
    told = prob + 0.1 * (1 - 2 * prob)
    assert torch.allclose(exo(told.logit() / 0.3, prob, 0.3, 0.1), torch.zeros(50, dtype=torch.float64), atol=1e-12)


def test_dpop_charges_a_winner_below_the_reference():
    """Where r_w >= 0 it is DPO, its gradient too; where r_w < 0 its margin is (1 + lam) r_w - r_l."""
    for winner, expected in ((0.5, 0.5 + 0.2), (-0.5, 3 * -0.5 + 0.2)):
        first, won = double(winner).requires_grad_(), double(1.0)
        found, plain = dpop(first, double(-0.2), won, 0.3, 2.0), dpo(double(expected), won, 0.3)
        assert found.item() == pytest.approx(plain.item())
        (gradient,) = torch.autograd.grad(found.sum(), first)
        slope = -0.3 * torch.sigmoid(double(-0.3 * expected)) * (1 if winner > 0 else 3)
        assert gradient.item() == pytest.approx(slope.item())


def test_dpop_stays_at_the_reference_unless_preferences_are_nearly_certain():
    """Two responses, even before: a loser that wins at times is kept, unless P > (2 + lam) / (4 + lam), .963 at 50."""
    policy = torch.linspace(0.05, 0.95, 91, dtype=torch.float64)
    first, second = (2 * policy).log(), (2 * (1 - policy)).log()
    for prob, moves in ((0.95, False), (0.98, True)):
        loss = dpop(first, second, torch.full_like(first, prob), 0.3, 50.0)
        assert (policy[loss.argmin()].item() > 0.51) == moves


def test_apo_and_bco_of_known_log_ratios():
    first, second, won = double(2.0), double(-1.0), double(1.0)
    sigma = torch.sigmoid
    assert torch.allclose(apo_zero(first, second, won, 0.5), 1 - sigma(double(1.0)) + sigma(double(-0.5)))
    assert torch.allclose(apo_down(first, second, won, 0.5), sigma(double(1.0)) + 1 - sigma(double(1.5)))
    assert torch.allclose(bco(first, second, won, 0.5), -sigma(double(1.0)).log() - sigma(double(0.5)).log())
    still = double(0.0, 0.0).requires_grad_()
    (gradient,) = torch.autograd.grad(apo_zero(still[:1], still[1:], double(0.5), 0.5).sum(), still)
    assert gradient.abs().max() < 1e-12


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must broadcast to the shape of prob, got \(2,\), \(3,\) and \(3,\)"):
        nca(torch.zeros(2), torch.zeros(3), torch.zeros(3), 0.1)
    with pytest.raises(ValueError, match=r"got \(2, 1\), \(1, 3\) and \(2, 2\)"):
        dpop(torch.zeros(2, 1), torch.zeros(1, 3), torch.zeros(2, 2), 0.1, 1.0)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="label_noise must lie in"):
        robust_dpo(double(1.0), double(1.0), 0.1, 0.5)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        exo(double(1.0), double(1.0), 0.1, 0.0)
