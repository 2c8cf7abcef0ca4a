"""XPO: what its bonus does, where it ends, the contract of an agent."""

import pytest
import torch

from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.xpo import XPOConfig
from preference_duel.types import Proposal
from tests.matrix_games import RANKED, REWARD, START, game, law, play

GOAL = torch.softmax(START.log() + REWARD / 0.5, 0)


def test_without_a_bonus_it_ends_at_the_optimum_of_the_reward():
    agent, arena = game(
        XPOConfig(tau=0.5, alpha=0.0, average=False, optimiser=OptimiserConfig("lbfgs")), RANKED, exact=True
    )
    play(agent, arena, 3)
    assert torch.allclose(law(agent.policy), GOAL, atol=1e-5)


@pytest.mark.slow
def test_the_bonus_leads_away_from_the_start():
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None)
    laws = []
    for alpha in (0.0, 0.02):
        agent, arena = game(XPOConfig(tau=0.5, alpha=alpha, average=False, optimiser=optimiser), RANKED, exact=True)
        play(agent, arena, 1500)
        laws.append(law(agent.policy))
    likely = [(START * one.log()).sum() for one in laws]
    assert likely[1] < likely[0] - 0.05


@pytest.mark.slow
def test_outcomes_lead_near_the_optimum():
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    agent, arena = game(XPOConfig(tau=0.5, average=False, optimiser=optimiser), RANKED)
    play(agent, arena, 1500)
    assert (law(agent.policy) - GOAL).abs().sum() < 0.25 * (START - GOAL).abs().sum()


@pytest.mark.parametrize("exact", [True, False])
def test_it_keeps_the_contract_of_an_agent(exact):
    check_agent(*game(XPOConfig(alpha=0.1), exact=exact, prompts=("x", "y")))


def test_self_play_is_refused():
    agent, arena = game(XPOConfig())
    proposal = agent.propose(arena.reset())
    with pytest.raises(ValueError, match="this duel is self-play"):
        agent.update(arena.play(Proposal(proposal.left)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.0}, "tau must be positive"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"responses": 0}, "responses must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        XPOConfig(**fields)
