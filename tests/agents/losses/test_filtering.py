"""Which wins are kept: the draw, its expectation, and which margins are usual."""

import pytest
import torch

from agents.losses.filtering import expected_keep, keep, usual, wins


def test_each_comparison_of_self_play_counts_once():
    weight = torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])
    prob = torch.tensor([[[0.5, 0.8], [0.2, 0.5]]])
    assert torch.allclose(wins(weight, prob, True)[0], torch.tensor([[[0.0, 0.8], [0.2, 0.0]]]))
    assert wins(weight, prob, True)[1].abs().max() == 0
    assert torch.allclose(wins(weight, prob, False).sum(0), weight)


def test_margins_near_the_mean_are_usual():
    found = usual(torch.tensor([1.0, 3.0]), torch.tensor(1.0), torch.tensor(2.0))
    assert torch.allclose(found, torch.tensor([1.0, 0.6065307]))
    assert torch.equal(usual(torch.tensor([1.0, 3.0]), torch.tensor(1.0), torch.tensor(0.0)), torch.ones(2))


@pytest.mark.parametrize(("share", "count"), [(1.0, 10), (0.8, 8), (0.55, 5), (0.01, 1)])
def test_a_share_is_kept_and_at_least_one(share, count):
    uniforms = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = keep(torch.ones(10), torch.ones(10), share, uniforms)
    assert kept.sum().item() == count
    assert set(kept.tolist()) <= {0.0, 1.0}


def test_the_draw_is_as_often_as_expected():
    """Copies of three items whose chances are 1, 1/2 and 1/10: the shares that are kept of each."""
    chance, copies = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64), 4000
    expected = expected_keep(chance, torch.ones(3, dtype=torch.float64) / 3, 0.6)
    assert expected.sum().item() == pytest.approx(0.6)
    uniforms = torch.rand(copies, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = keep(chance.expand(copies, 3), torch.ones(copies, 3), 0.6, uniforms)
    assert torch.allclose(kept.double().mean(0), 3 * expected, atol=0.02)


def test_what_does_not_count_is_not_drawn():
    kept = keep(torch.ones(3), torch.tensor([0.0, 1.0, 0.0]), 0.1, torch.tensor([0.1, 0.9, 0.2]))
    assert kept.tolist() == [0.0, 1.0, 0.0]
