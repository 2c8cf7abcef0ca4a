"""The arena's verdicts on single responses: each meets a hidden draw of a policy, and P(it wins) is its label."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.policies.tabular import TabularPolicy
from envs import Completion, DuelArena, Proposal
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.keyed_random import ReplicaSeeds
from tests.matrix_games import COMAL, RESPONSES, START

TASK = finite_task("game", ("x",), RESPONSES, RESPONSES)
ALL = [Completion(text) for text in RESPONSES]


def arena(batch_size=None, exact=False, oracle=None, **fields):
    hidden = TabularPolicy(TASK, START, exact=exact).frozen()
    oracle = oracle or TableOracle(COMAL, ("x",), RESPONSES)
    return DuelArena(TASK, oracle, batch_size, "thumb", hidden=hidden, **fields)


def played(one, responses=ALL):
    prompts = one.reset()
    return one.play(Proposal([responses] * len(prompts)))


def test_a_thumb_is_an_outcome_whose_mean_is_the_win_rate_against_the_hidden_policy():
    duel = played(arena(4000))
    assert duel.prob.shape == duel.asked.shape == (4000, 3, 1)
    assert set(duel.prob.unique().tolist()) == {0.0, 1.0}
    expected = COMAL @ START
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((duel.prob[:, :, 0].mean(0) - expected).abs() < 4 * deviation).all()
    assert {one.text for row in duel.right for one in row} == {""}
    assert (duel.feedback, duel.self_play, duel.exact) == ("thumb", False, False)


def test_thumbs_of_one_prompt_meet_different_draws():
    """Responses that are all "a" win with chance 1/2, .1 or .8: by one draw for all of them they would agree."""
    spread = played(arena(2000), [ALL[0]] * 8).prob[:, :, 0].mean(1).var()
    chance = (COMAL @ START)[0]
    assert spread.item() == pytest.approx((chance * (1 - chance) / 8).item(), rel=0.15)


def test_a_whole_distribution_is_told_its_win_rates():
    one = arena(exact=True)
    one.reset()
    duel = one.play(Proposal([ALL], left_weight=START[None]))
    assert duel.prob[0, :, 0].tolist() == pytest.approx([0.39, 0.46, 0.64])
    assert one.queries is None


def test_the_batch_size_changes_no_thumb():
    whole = played(arena(6, seed=3)).prob
    parts = arena(2, seed=3)
    assert torch.equal(whole, torch.cat([played(parts).prob for _ in range(3)]))
    assert not torch.equal(whole, played(arena(6, seed=4)).prob)


def test_replicas_are_given_the_thumbs_of_their_seeds():
    seeds = ReplicaSeeds(np.array([5, 9], dtype=np.uint64), 4)
    together = arena(4, seed=seeds)
    together._choices = 1  # of a task whose prompts follow one another
    together.task = replace(TASK, prompts=("x", "x"))
    alone = [played(arena(4, seed=seed)).prob for seed in (5, 9)]
    assert torch.equal(played(together).prob, torch.cat(alone))


def test_each_thumb_is_a_query_and_a_saved_arena_goes_on():
    one, other = arena(5, seed=1), arena(5, seed=1)
    played(one)
    assert one.queries == 15
    other.load_state_dict(one.state_dict())
    assert torch.equal(played(one).prob, played(other).prob)


class Silent:
    """Prefers nothing, and can't be read where c is the second response, so that of no pair of c both orders are."""

    antisymmetric = False
    leaves_unread = True

    def prob(self, prompts, first, second):
        return torch.tensor([torch.nan if y == "c" else 0.5 for y in second], dtype=torch.float64)


def test_a_thumb_that_can_not_be_read_is_left_out():
    one = arena(400, oracle=Silent())
    duel = played(one)
    assert (duel.prob[~duel.asked] == 0.5).all()
    shares = duel.asked[:, :, 0] / duel.asked[:, :, 0].sum(1, keepdim=True).double()
    assert torch.allclose(duel.left_weight, shares)
    assert one.unread_share == pytest.approx(1 - 0.7 * 2 / 3, abs=0.05)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="hidden plays the other seat of feedback='thumb' and of no other"):
        DuelArena(TASK, TableOracle(COMAL, ("x",), RESPONSES), None, "thumb")
    with pytest.raises(ValueError, match="and 1 for feedback='thumb', got 2"):
        arena(votes=2)
    one = arena()
    one.reset()
    with pytest.raises(ValueError, match="propose left ones alone"):
        one.play(Proposal([ALL], [ALL]))
    with pytest.raises(ValueError, match="two whole distributions or two samplers"):
        one.play(Proposal([ALL], left_weight=START[None]))
