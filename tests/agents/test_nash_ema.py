"""Nash-EMA: the regularised equilibrium, its averaged opponent, and the contract of an agent."""

import pytest
import torch

from agents.check import check_agent
from agents.nash.nash_ema import NashEMAConfig
from agents.optim.optimiser import OptimiserConfig
from envs.games import regularised_nash
from tests.matrix_games import COMAL, START, game, law, play

STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", 5.0, warmup=0, max_grad_norm=None)}
NASH = regularised_nash(COMAL, START, 0.1, tol=1e-14).policy


def test_at_the_regularised_equilibrium_nothing_moves():
    agent, arena = game(NashEMAConfig(**STEPS), exact=True)
    for policy in (agent.policy, agent.opponent):
        policy.load_state_dict({"logits": NASH.log()[None]})
    play(agent, arena, 3)
    assert torch.allclose(law(agent.policy), NASH, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_last_iterate_goes_there():
    agent, arena = game(NashEMAConfig(decay=0.99, **STEPS), exact=True)
    play(agent, arena, 2000)
    assert torch.allclose(law(agent.policy), NASH, rtol=0, atol=1e-6)
    assert torch.allclose(law(agent.opponent), NASH, rtol=0, atol=1e-6)


def test_the_opponent_is_the_average_of_what_the_policy_was():
    agent, arena = game(NashEMAConfig(decay=0.75, **STEPS))
    expected = START
    for _ in range(4):
        play(agent, arena, 1)
        expected = 0.75 * expected + 0.25 * law(agent.policy)
        assert torch.allclose(law(agent.opponent), expected)


def test_each_sample_meets_one_of_the_opponents():
    agent, arena = game(NashEMAConfig(responses=3))
    play(agent, arena, 2)
    assert arena.queries == 2 * 3
    check_agent(*game(NashEMAConfig(), exact=True))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="the opponent stays the start"):
        NashEMAConfig(decay=1.0)
    with pytest.raises(ValueError, match="tau must be positive"):
        NashEMAConfig(tau=0.0)
