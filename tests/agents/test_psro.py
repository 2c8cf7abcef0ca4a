"""PSRO: equilibria of known games in few members, meta-solvers by hand, its population, the contract of an agent."""

import dataclasses

import pytest
import torch

import oracles
from agents import make_policy
from agents.check import check_agent
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.mixtures import Mixture
from agents.population import meta_solvers
from agents.population.psro import PSROConfig
from benchmarks.population import NAMED, RANDOM, gaps, matrix
from envs import make_task
from envs.arena import DuelArena
from envs.games import exploitability
from preference_duel.types import Completion
from tests.matrix_games import COMAL, RESPONSES, START, game, play

QUICK = {"response_updates": 2, "payoff_updates": 1}


def probs(policy):
    """The probabilities of the responses to the prompt x."""
    return policy.distribution(["x"], [Completion(text) for text in RESPONSES])[0]


@pytest.mark.parametrize("which", [*NAMED, *(f"random {seed}" for seed in range(RANDOM))])
def test_exact_play_finds_an_equilibrium_within_forty_members(which):
    found = gaps(matrix(which), "nash", 16)
    assert found[0] > 0.03
    assert found[-1] <= 1e-6


def test_a_member_is_the_best_response_to_the_mixture_before_it():
    agent, arena = game(PSROConfig(), exact=True)
    gain = play(agent, arena, 1)["policy/gain"]
    assert gain == pytest.approx(exploitability(COMAL, START).item())
    # (.48, .38, .64) are the chances against START; c is the best, and wins .2, .9, .5 against a, b, c.
    assert agent.payoff.tolist() == [[0.5, pytest.approx(0.36)], [pytest.approx(0.64), 0.5]]
    assert agent.policy.weights.tolist() == pytest.approx([0, 1])
    assert probs(agent.members[1]).tolist() == pytest.approx([0, 0, 1])
    assert probs(agent.members[0]).tolist() == pytest.approx(START.tolist())


def test_equal_shares_are_fictitious_play():
    agent, arena = game(PSROConfig("uniform"), exact=True)
    play(agent, arena, 20)
    played = START.clone()  # counts as the first response
    for count in range(1, 21):
        played[(COMAL @ (played / count)).argmax()] += 1
    assert torch.allclose(probs(agent.policy), played / 21)


def test_a_kl_term_makes_the_exact_response_the_regularised_one():
    agent, arena = game(PSROConfig(tau=0.3), exact=True)
    play(agent, arena, 1)
    expected = (START.log() + COMAL @ START / 0.3).softmax(0)
    assert torch.allclose(probs(agent.members[1]), expected)


def test_replicator_shares_are_near_nash_and_never_below_the_exploration():
    table = torch.tensor([[0.5, 0.9, 0.2, 0.6], [0.1, 0.5, 0.9, 0.6], [0.8, 0.1, 0.5, 0.6], [0.4, 0.4, 0.4, 0.5]])
    table = table.double()
    free, held = (meta_solvers.replicator(table, exploration) for exploration in (0.0, 0.4))
    assert exploitability(table, free) < 0.005
    assert free[3] < 0.02  # dominated
    assert held.min() >= 0.1 - 1e-9
    assert held[3] == pytest.approx(0.1, abs=5e-3)
    assert held.sum() == pytest.approx(1)
    assert meta_solvers.replicator(table, 1.0).tolist() == pytest.approx([0.25] * 4)
    assert meta_solvers.nash(table)[3] == pytest.approx(0)
    assert meta_solvers.uniform(table).tolist() == [0.25] * 4


def test_payoffs_of_sampled_members_are_measured_against_each_earlier_one():
    config = PSROConfig(response_updates=30, payoff_updates=60)
    agent, arena = game(config, seed=3)
    play(agent, arena, 180)
    assert len(agent.members) == 3
    rows = torch.stack([probs(member) for member in agent.members])
    assert torch.allclose(agent.payoff, rows @ COMAL @ rows.mT, atol=0.12)  # of 240 outcomes, four to a sample
    assert torch.equal(agent.payoff + agent.payoff.mT, torch.ones(3, 3).double())


@pytest.mark.parametrize("seed", range(2))
def test_outcomes_lower_the_gap(seed):
    config = PSROConfig(response_updates=20, payoff_updates=5, optimiser=OptimiserConfig(learning_rate=0.3))
    agent, alone = game(config, seed=seed)
    play(agent, DuelArena(alone.task, alone.oracle, 32, seed=seed), 125)
    assert exploitability(COMAL, probs(agent.policy)) < 0.5 * exploitability(COMAL, START)


def test_a_response_begins_at_the_start_or_at_the_last_member():
    for begin, at in (("start", 0), ("last", 1)):
        agent, arena = game(PSROConfig(begin=begin, **QUICK))
        play(agent, arena, 3)
        assert torch.equal(agent.response.policy.logits, agent.members[at].logits)
        assert torch.equal(agent.response.start.logits, agent.members[0].logits)


def test_every_member_is_saved_on_its_own(tmp_path):
    agent, arena = game(PSROConfig(**QUICK))
    play(agent, arena, 6)
    agent.policy.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"component-{i}" for i in range(3)] + ["mixture.json"]
    assert isinstance(agent.policy, Mixture)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        PSROConfig(**QUICK),
        PSROConfig("uniform", begin="last", tau=0.1, **QUICK),
        PSROConfig("replicator", gradient=GradientConfig("ppo", epochs=2), **QUICK),
    ],
)
def test_it_keeps_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_with_a_language_model_it_keeps_the_contract_of_an_agent(exact):
    if exact:
        task, policy = make_task("symbols", alphabet=2, length=2, prompts=2), {"exact": True}
    else:
        task, policy = make_task("chat", tokenizer=TinyConfig().load_tokenizer()), {}
        task = dataclasses.replace(task, prompts=task.prompts[:2])
    agent = PSROConfig(response_updates=1, payoff_updates=1).build(policy=make_policy("tiny", task=task, **policy))
    check_agent(agent, DuelArena(task, oracles.make("bt"), 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"meta_solver": "alpha"}, "meta_solver must be one of"),
        ({"exploration": 0.1}, "exploration belongs to meta_solver='replicator'"),
        ({"meta_solver": "replicator", "exploration": 1.5}, "exploration must lie in"),
        ({"response_updates": 0}, "response_updates must be at least 1"),
        ({"payoff_updates": 0}, "payoff_updates must be at least 1"),
        ({"begin": "end"}, "begin must be one of"),
        ({"tau": -1.0}, "tau must be at least 0"),
        ({"responses": 1}, "responses must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PSROConfig(**fields)
