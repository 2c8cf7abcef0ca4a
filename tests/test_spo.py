"""SPO: its gradient by hand, what its average and its last iterate do, its forms, the contract of an agent."""

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.optimisers import OptimiserConfig
from agents.policy_gradient import GradientConfig
from agents.spo import SPOConfig
from envs.games import exploitability, regularised_nash
from tests.matrix_games import COMAL, START, game, law, play, require_page

PLAIN = OptimiserConfig("sgd", learning_rate=0.5, max_grad_norm=None, warmup=0)


def test_an_exact_step_is_the_gradient_of_the_win_rate_against_oneself():
    agent, arena = game(SPOConfig(optimiser=PLAIN, average=False), exact=True)
    before = agent.policy.logits.detach().clone()
    play(agent, arena, 1)
    gain = START * (COMAL @ START - 0.5)
    assert torch.allclose(agent.policy.logits - before, 0.5 * gain, atol=1e-12)


def test_the_average_approaches_a_nash_policy_and_the_last_iterate_circles():
    agent, arena = game(SPOConfig(optimiser=OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None)), exact=True)
    start = exploitability(COMAL, START)
    play(agent, arena, 600)
    assert exploitability(COMAL, law(agent.average)) < 0.25 * start
    assert exploitability(COMAL, law(agent.policy)) > 2 * exploitability(COMAL, law(agent.average))


def test_with_a_kl_term_the_last_iterate_settles_at_the_regularised_nash_policy():
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, decay=200.0, max_grad_norm=None)
    agent, arena = game(SPOConfig(tau=0.3, average=False, optimiser=optimiser), exact=True)
    play(agent, arena, 1500)
    assert torch.allclose(law(agent.policy), regularised_nash(COMAL, START, 0.3).policy, atol=1e-4)


@pytest.mark.parametrize("form", ["reinforce", "grpo", "ppo"])
def test_outcomes_lower_the_gap(form):
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    gradient = GradientConfig(form, epochs=1 + (form == "ppo"))
    agent, arena = game(SPOConfig(gradient=gradient, tau=0.1, optimiser=optimiser))
    play(agent, arena, 1500)
    assert exploitability(COMAL, law(agent.average)) < 0.5 * exploitability(COMAL, START)


def test_advantages_and_clipping_by_hand():
    reward = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
    assert losses.advantage(reward, "reinforce")[0].tolist() == pytest.approx([4 / 3, 0, -4 / 3, 0])
    assert losses.advantage(reward, "grpo")[0].tolist() == pytest.approx([2**0.5, 0, -(2**0.5), 0], rel=1e-3)
    assert torch.equal(losses.advantage(reward, "grpo", exact=True), reward)
    with pytest.raises(ValueError, match="at least 2 draws"):
        losses.advantage(reward[:, :1], "grpo")
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    drew = torch.zeros(1, 2, 1, dtype=torch.float64)
    log_policy = torch.tensor([[[0.5], [0.5]]], dtype=torch.float64, requires_grad=True)
    gain = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    surrogate = losses.clipped(log_policy, drew, gain, mask, 0.2)
    assert surrogate[0].tolist() == pytest.approx([-1.2, torch.tensor(0.5).exp().item()])
    surrogate.sum().backward()
    assert log_policy.grad[0, :, 0].tolist() == pytest.approx([0, torch.tensor(0.5).exp().item()])


def test_a_token_is_charged_for_itself_and_what_follows():
    reward = torch.tensor([[1.0]])
    ratio = torch.tensor([[[0.1, 0.2, 9.0]]])
    mask = torch.tensor([[[True, True, False]]])
    assert losses.reward_to_go(reward, ratio, mask, 2.0)[0, 0].tolist() == pytest.approx([0.4, 0.6, 0.0])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("config", [SPOConfig(), SPOConfig(gradient=GradientConfig("ppo", 3), tau=0.1, average=False)])
def test_it_keeps_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


def test_its_page_names_every_setting_and_tag():
    require_page("spo", SPOConfig())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GradientConfig, {"form": "sac"}, "form must be one of"),
        (GradientConfig, {"epochs": 2}, "epochs must be 1, or more with form='ppo'"),
        (GradientConfig, {"clip": 0.0}, "clip must be positive"),
        (SPOConfig, {"tau": -0.1}, "tau must be at least 0"),
        (SPOConfig, {"responses": 1}, "responses must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
