"""Rejection sampling and best-of-n: the distributions that they have, and that samples of them follow."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from agents import Accepted, BestOf, Mixture, TabularPolicy
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.policies.lm_config import TinyConfig
from agents.spo import SPOConfig
from envs import DuelArena, Proposal, make_task
from envs.games import kl_divergence
from envs.games.lower_bounds import best_of_n_kl
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.keyed_random import Key
from tests.matrix_games import G3_PAYOFF, G3_REWARD, G3_START, RESPONSES

TASK = finite_task("game", ("x", "y"), RESPONSES, RESPONSES)
ORACLE = TableOracle(G3_PAYOFF, TASK.prompts, RESPONSES)
DRAWS = 2_500
LAW = [0.153357, 0.679897, 0.166747]
"""Start exp(R / .5) / Z."""


def reward(prompts, responses):
    del prompts
    return torch.stack([G3_REWARD[[RESPONSES.index(y.text) for y in row]] for row in responses])


def table(exact=False):
    return TabularPolicy(TASK, G3_START, exact=exact)


def require_samples(policy, expected, seed=3):
    counts = [sum(y.text == text for y in policy.draw(["x"], DRAWS, Key(seed))[0][0]) for text in RESPONSES]
    assert stats.chisquare(counts, np.array(expected) / np.sum(expected) * DRAWS).pvalue > 1e-3


def test_accepted_samples_follow_the_tilted_start():
    policy = Accepted(table(), reward, beta=0.5, largest=1.0)
    assert policy.acceptance(["x"], TASK.responses).item() == pytest.approx(0.441244, abs=1e-6)
    assert policy.distribution(["x"], TASK.responses)[0].tolist() == pytest.approx(LAW, abs=1e-6)
    require_samples(policy, LAW)


def test_dpo_on_pairs_of_accepted_samples_has_the_optimum_that_they_follow():
    """RSO: pairs are sampled at the optimum of the temperature at which DPO learns from them."""
    policy, arena = table(exact=True), DuelArena(TASK, ORACLE, None, "probability")
    prompts = arena.reset()
    responses, weight = Accepted(policy, reward, beta=0.5, largest=1.0).draw(prompts, 1, Key(0))
    agent = DPOConfig(tau=0.5, average=False, optimiser=OptimiserConfig("lbfgs")).build(policy=policy)
    agent.update(arena.play(Proposal(responses, left_weight=weight)))
    assert policy.distribution(["x"], TASK.responses)[0].tolist() == pytest.approx(LAW, abs=1e-5)


def test_a_bound_that_is_too_high_costs_candidates_and_changes_nothing_else():
    policy = Accepted(table(), reward, beta=0.5, largest=1.5)
    assert policy.acceptance(["x"], TASK.responses).item() == pytest.approx(0.441244 / math.e, abs=1e-6)
    assert policy.distribution(["x"], TASK.responses)[0].tolist() == pytest.approx(LAW, abs=1e-6)
    require_samples(policy, LAW)


def test_the_best_of_three_follows_the_order_of_rewards():
    """The least reward needs three of .5, the two least three of .7."""
    expected = [0.5**3, 1 - 0.7**3, 0.7**3 - 0.5**3]
    policy = BestOf(table(), reward, 3)
    law = policy.distribution(["x"], TASK.responses)
    assert law[0].tolist() == pytest.approx(expected)
    assert kl_divergence(law[0], G3_START).item() < best_of_n_kl(3)
    require_samples(policy, expected)


def test_equal_rewards_share_as_the_policy_does():
    policy = BestOf(table(), lambda prompts, responses: (reward(prompts, responses) > 0).double(), 2)
    expected = [0.25, 0.75 * 0.6, 0.75 * 0.4]
    assert policy.distribution(["x"], TASK.responses)[0].tolist() == pytest.approx(expected)
    require_samples(policy, expected)


POLICIES = {"rso": Accepted(table(), reward, 0.5, 1.0), "best": BestOf(table(), reward, 3)}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_response_depends_on_its_place_alone_and_stays_so_in_a_mixture(policy):
    few, many = policy.draw(["x"], 3, Key(5))[0], policy.draw(["x", "y"], 20, Key(5))[0]
    assert few[0] == many[0][:3]
    assert many[0] != many[1]
    mixture = Mixture([policy, Mixture([policy, policy])])  # the same distribution, once nested
    require_samples(mixture, policy.distribution(["x"], TASK.responses)[0].tolist(), 8)


def test_an_accepted_distribution_is_known_where_acceptances_are_below_the_smallest_number():
    policy = Accepted(table(), lambda prompts, responses: reward(prompts, responses) / 1000, 0.001, 2.0)
    assert policy.distribution(["x"], TASK.responses).sum(1).tolist() == pytest.approx([1.0])
    assert policy.acceptance(["x"], TASK.responses).tolist() == [0.0]


def test_an_exact_policy_is_listed_with_its_probabilities():
    responses, weight = Accepted(table(exact=True), reward, 0.5, 1.0).draw(["x", "y"], 1, Key(0))
    assert [y.text for y in responses[1]] == RESPONSES
    assert weight[1].tolist() == pytest.approx(LAW, abs=1e-6)


def test_a_language_models_samples_are_selected_and_played_against():
    """The last in the alphabet of four; SPO learns against it as its fixed opponent."""
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    policy = TinyConfig().build(task=task)

    def order(prompts, responses):
        del prompts
        return torch.tensor([[float(task.response_texts.index(y.text)) for y in row] for row in responses])

    best, prompts = BestOf(policy, order, 4), list(task.prompts)
    drawn = best.draw(prompts, 200, Key(1))[0]
    counts = [sum(y.text == text for y in drawn[0]) for text in task.response_texts]
    law = best.distribution(prompts, task.responses)[0].numpy()
    assert stats.chisquare(counts, law / law.sum() * 200).pvalue > 1e-3
    assert law[-1] == pytest.approx(1 - (1 - policy.distribution(prompts, task.responses)[0, -1].item()) ** 4)
    agent = SPOConfig().build(policy=policy)
    agent.fixed_opponent = best
    assert agent.propose(prompts).right == best.draw(prompts, 4, agent.key().at(1))[0]


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match=r"a reward of 1 is above largest=0.5"):
        Accepted(table(), reward, 0.5, 0.5).draw(["x"], 4, Key(0))
    with pytest.raises(ValueError, match=r"20 candidates for 'x' were all rejected: raise beta=0.01"):
        Accepted(table(), reward, 0.01, 2.0, most=20).draw(["x"], 4, Key(0))
    with pytest.raises(ValueError, match="beta must be positive"):
        Accepted(table(), reward, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"count must lie in \[1, 4095\]"):
        BestOf(table(), reward, 0)
    with pytest.raises(ValueError, match="select once"):
        Accepted(Mixture([table(), BestOf(table(), reward, 2)]), reward, 0.5, 1.0)
    with pytest.raises(TypeError, match="BestOf tells no log-probabilities"):
        BestOf(table(), reward, 2).logprob(["x"], [list(TASK.responses)])
