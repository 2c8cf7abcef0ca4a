"""GPO of the general preference model: its solved step, the game of log odds, and what the model remembers."""

import pytest
import torch

from agents.check import check_agent
from agents.nash.gpm_po import GPMPOConfig
from agents.optim.optimiser import OptimiserConfig
from tests.matrix_games import COMAL, G3_PAYOFF, G3_REWARD, G3_START, g3, game, law, play

SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
NASH_OF_LOG_ODDS = torch.tensor([0.380094, 0.239812, 0.380094], dtype=torch.float64)


def test_a_solved_step_tilts_by_the_log_odds_against_the_last_policy():
    agent, arena = g3(GPMPOConfig(beta=0.5, **SOLVED), COMAL)
    expected = G3_START
    for _ in range(3):
        play(agent, arena, 1)
        expected = torch.softmax(expected.log() + 2 * COMAL.logit() @ expected, 0)
        assert torch.allclose(law(agent.policy), expected, rtol=0, atol=1e-9)


def test_of_bradley_terry_preferences_the_first_step_is_dpos_optimum():
    agent, arena = g3(GPMPOConfig(beta=0.5, **SOLVED), G3_PAYOFF)
    play(agent, arena, 1)
    assert torch.allclose(law(agent.policy), torch.softmax(G3_START.log() + 2 * G3_REWARD, 0), rtol=0, atol=1e-9)


def test_the_average_nears_the_nash_policy_of_log_odds():
    assert (COMAL.logit() @ NASH_OF_LOG_ODDS).max().item() == pytest.approx(0, abs=1e-5)
    agent, arena = game(GPMPOConfig(beta=5.0, optimiser=OptimiserConfig("lbfgs")), exact=True)
    play(agent, arena, 60)
    assert (COMAL.logit() @ law(agent.average)).max() < 0.2
    assert (COMAL.logit() @ law(agent.policy)).max() > 0.4


def test_scores_rest_on_all_duels_so_far():
    """Outcomes of one duel cannot say 0.9; the model's share of many can."""
    agent, arena = game(GPMPOConfig())
    play(agent, arena, 150)
    prob = agent.model.matrix(["x"])[0]
    assert torch.allclose(prob, COMAL, rtol=0, atol=0.15)


@pytest.mark.parametrize("fields", [{}, {"refresh_every": 3}])
@pytest.mark.parametrize("exact", [True, False])
def test_it_keeps_the_contract(exact, fields):
    check_agent(*game(GPMPOConfig(**fields), exact=exact, prompts=("x", "y")))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta must be positive"):
        GPMPOConfig(beta=0.0)
    with pytest.raises(ValueError, match="responses must be at least 2"):
        GPMPOConfig(responses=1)
