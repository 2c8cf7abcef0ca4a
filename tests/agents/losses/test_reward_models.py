"""The loss of a reward model with margin and centring: TRL's values, its zero gradient, and its shapes."""

import json

import pytest
import torch

from agents.losses import reward_model
from tests.paths import GOLDEN

SETTINGS = {"plain": (0, 0.0), "margin": (1, 0.0), "centring": (0, 0.01), "both": (1, 0.01)}


@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_gradients_are_trls(name):
    """The golden values are of `python -m benchmarks.trl_losses`, which names TRL's version."""
    (pairs,) = json.loads((GOLDEN / "trl_losses.json").read_text(encoding="utf-8"))["rewards"]
    first, second, margin = (torch.tensor(pairs[key], dtype=torch.float64) for key in ("chosen", "rejected", "margin"))
    first.requires_grad_()
    second.requires_grad_()
    with_margin, centring = SETTINGS[name]
    loss = reward_model(first, second, torch.ones(4).double(), with_margin * margin, centring).mean()
    gradient = torch.cat(torch.autograd.grad(loss, (first, second)))
    assert loss.item() == pytest.approx(pairs["loss"][name]["loss"], abs=1e-6)
    assert gradient.tolist() == pytest.approx(pairs["loss"][name]["gradient"], abs=1e-6)


def test_a_verdict_of_the_second_mirrors_the_loss_and_a_tie_is_the_mean():
    first, second, margin = (torch.tensor([value], dtype=torch.float64) for value in (0.7, -0.2, 0.5))
    by_outcome = [
        reward_model(first, second, torch.tensor([o], dtype=torch.float64), margin, 0.1) for o in (1.0, 0.0, 0.5)
    ]
    swapped = reward_model(second, first, torch.ones(1).double(), margin, 0.1)
    assert by_outcome[1].item() == swapped.item()
    assert by_outcome[2].item() == pytest.approx((by_outcome[0] + by_outcome[1]).item() / 2)


def test_equal_centred_rewards_of_a_tie_move_nowhere():
    reward = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    tie = torch.full((1,), 0.5, dtype=torch.float64)
    loss = reward_model(reward, torch.zeros(1).double(), tie, 0.3, 0.5)
    assert torch.autograd.grad(loss.sum(), reward)[0].abs() < 1e-15


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"must broadcast to the shape of prob, got \(2,\), \(2,\) and \(3,\)"):
        reward_model(torch.zeros(2), torch.zeros(2), torch.zeros(3), 0.0, 0.0)
