"""Duels without the pairs whose answers could not be read."""

import pytest
import torch

from preference_duel.types import Completion, Duel


def duel(self_play, rows=3, count=3):
    left = [[Completion(f"{b}{k}") for k in range(count)] for b in range(rows)]
    right = left if self_play else [[Completion(f"{b}{l}!") for l in range(count)] for b in range(rows)]
    asked = torch.ones(rows, count, count, dtype=torch.bool)
    prob = torch.rand(rows, count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if self_play:
        asked &= ~torch.eye(count, dtype=torch.bool)
        prob = prob.triu(1) + (1 - prob.mT).tril(-1) + torch.eye(count) / 2
    weight = torch.full((rows, count), 1 / count, dtype=torch.float64)
    return Duel(["x", "y", "z"][:rows], left, right, prob, weight, weight, asked, "probability", 1)


def mask(*places, symmetric):
    taken = torch.zeros(3, 3, 3, dtype=torch.bool)
    for b, k, l in places:
        taken[b, k, l] = True
    return taken | taken.mT if symmetric else taken


def test_a_duel_that_was_read_whole_stays_as_it_is():
    whole = duel(self_play=True)
    assert whole.without(torch.zeros(3, 3, 3, dtype=torch.bool)) is whole
    assert whole.known.all()


def test_an_unread_pair_is_as_one_that_was_not_asked():
    whole = duel(self_play=True)
    taken = mask((0, 0, 1), symmetric=True)
    rest = whole.without(taken)
    assert rest.unread == 1
    assert rest.rows == [0, 1, 2]
    assert rest.self_play
    assert torch.equal(rest.asked, whole.asked & ~taken)
    assert torch.equal(rest.known, rest.asked | torch.eye(3, dtype=torch.bool))
    assert (rest.prob[taken] == 0.5).all()
    assert torch.equal(rest.prob[~taken], whole.prob[~taken])
    assert torch.equal(rest.left_weight, whole.left_weight), "each response has another pair"


def test_a_response_without_another_pair_weighs_nothing():
    rest = duel(self_play=True).without(mask((1, 2, 0), (1, 2, 1), symmetric=True))
    assert rest.left_weight.tolist() == rest.right_weight.tolist() == [[1 / 3] * 3, [0.5, 0.5, 0.0], [1 / 3] * 3]
    apart = duel(self_play=False).without(mask((1, 2, 0), (1, 2, 1), (1, 2, 2), symmetric=False))
    assert apart.left_weight[1].tolist() == [0.5, 0.5, 0.0]
    assert apart.right_weight[1].tolist() == [1 / 3] * 3
    assert torch.equal(apart.known, apart.asked)


@pytest.mark.parametrize("self_play", [True, False])
def test_a_prompt_without_another_pair_is_left_out(self_play):
    whole = duel(self_play)
    taken = torch.zeros(3, 3, 3, dtype=torch.bool)
    taken[1] = whole.asked[1]
    rest = whole.without(taken)
    assert rest.prompts == ["x", "z"]
    assert rest.rows == [0, 2]
    assert (rest.right is rest.left) == self_play
    assert rest.left == [whole.left[0], whole.left[2]]
    assert rest.right == [whole.right[0], whole.right[2]]
    for name in ("prob", "asked", "left_weight", "right_weight"):
        assert torch.equal(getattr(rest, name), getattr(whole, name)[[0, 2]])
    assert rest.without(rest.asked).prompts == []


def test_a_prompt_of_which_nothing_was_asked_stays():
    whole = duel(self_play=True)
    whole.asked[2] = False
    rest = whole.without(mask((0, 0, 1), symmetric=True))
    assert rest.rows == [0, 1, 2]
    assert rest.left_weight[2].tolist() == [1 / 3] * 3
