"""SPO: its gradient by hand, what its average and its last iterate do, its forms, the contract of an agent."""

import dataclasses
import math

import pytest
import torch

import oracles
from agents import losses, make_policy
from agents.check import check_agent
from agents.learning.critic import critic_of
from agents.learning.learner import Learner
from agents.learning.policy_gradient import Draws, GradientConfig, PolicyGradient
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.spo import SPOConfig
from envs import make_task
from envs.arena import DuelArena
from envs.games import exploitability, regularised_nash
from envs.tasks.finite import finite_task
from preference_duel.keyed_random import Key
from preference_duel.types import Completion
from tests.matrix_games import COMAL, RESPONSES, START, game, law, play

VALUE = GradientConfig("ppo", epochs=2, baseline="value")
FORMS = "ppo", "rebel", "value"
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


@pytest.mark.slow
def test_with_a_kl_term_the_last_iterate_settles_at_the_regularised_nash_policy():
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, decay=200.0, max_grad_norm=None)
    agent, arena = game(SPOConfig(tau=0.3, average=False, optimiser=optimiser), exact=True)
    play(agent, arena, 1500)
    assert torch.allclose(law(agent.policy), regularised_nash(COMAL, START, 0.3).policy, atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "expected"), [(100, 0.023208), pytest.param(1_000, 0.012813, marks=pytest.mark.slow)]
)
def test_the_average_of_exact_hedge_has_the_published_gap(steps, expected):
    """Of 2 max_y P(y beats the average) - 1, eta the best for so many steps, as in test_sppo_theory."""
    gradient = GradientConfig("rebel", eta=math.sqrt(8 * math.log(5) / steps))
    agent, arena = game(SPOConfig(gradient=gradient, optimiser=OptimiserConfig("lbfgs")), exact=True)
    play(agent, arena, steps)
    assert 2 * exploitability(COMAL, law(agent.average)).item() == pytest.approx(expected, abs=5e-7)


def test_own_pairs_are_asked_once_and_learned_from_alone():
    agent, arena = game(SPOConfig(pairs="own", average=False))
    with pytest.raises(ValueError, match="belongs to --run"):
        agent.propose(arena.reset())
    agent.fixed_opponent = agent.policy.frozen()
    duel = arena.play(agent.propose(arena.reset()))
    assert arena.queries == 4
    changed = dataclasses.replace(duel, prob=torch.where(duel.asked, duel.prob, 0.123))
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.update(duel)
    after = agent.policy.logits.detach().clone()
    again, _ = game(SPOConfig(pairs="own", average=False))
    again.fixed_opponent = agent.fixed_opponent
    again.policy.load_state_dict(before)
    again.update(changed)
    assert torch.equal(again.policy.logits, after)


def test_rebel_by_hand_and_where_it_is_still():
    ratio = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    reward = torch.tensor([[0.3, -0.1]], dtype=torch.float64)
    weight = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    # 0.5 - 2 x 0.3 = -0.1 and 0.1 + 2 x 0.1 = 0.3, their mean 0.2.
    assert losses.rebel(ratio, reward, weight, 2.0)[0].tolist() == pytest.approx([-0.3, 0.1])
    assert losses.rebel(2 * reward + 7, reward, weight, 2.0)[0].tolist() == pytest.approx([0, 0])
    with pytest.raises(ValueError, match="one shape"):
        losses.rebel(ratio, reward[:, :1], weight, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["reinforce", *FORMS])
def test_outcomes_lower_the_gap(form):
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    gradient = VALUE if form == "value" else GradientConfig(form, epochs=1 + (form == "ppo"))
    agent, arena = game(SPOConfig(gradient=gradient, tau=0.1, optimiser=optimiser))
    play(agent, arena, 1500)
    assert exploitability(COMAL, law(agent.average)) < 0.5 * exploitability(COMAL, START)


def test_advantages_and_clipping_by_hand():
    reward = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
    assert losses.advantage(reward)[0].tolist() == pytest.approx([4 / 3, 0, -4 / 3, 0])
    assert torch.equal(losses.advantage(reward, exact=True), reward)
    with pytest.raises(ValueError, match="at least 2 draws"):
        losses.advantage(reward[:, :1])
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


def test_generalised_advantages_by_hand():
    reward = torch.tensor([[1.0]])
    ratio = torch.tensor([[[0.1, 0.2, 9.0]]])
    value = torch.tensor([[[0.5, 0.25, 9.0]]])
    mask = torch.tensor([[[True, True, False]]])
    second = 1.0 - 2.0 * 0.2 - 0.25
    first = -2.0 * 0.1 + 0.25 - 0.5 + 0.5 * second
    found, returns = losses.generalised_advantage(reward, ratio, value, mask, tau=2.0, decay=0.5)
    assert found[0, 0].tolist() == pytest.approx([first, second, 0.0])
    assert returns[0, 0].tolist() == pytest.approx([first + 0.5, second + 0.25, 0.0])


def test_undamped_advantages_are_the_reward_to_go_less_the_value():
    generator = torch.Generator().manual_seed(0)
    shape = 3, 4, 5
    ratio, value = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    reward = torch.randn(shape[:2], generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (3, 4, 1), generator=generator)
    found, returns = losses.generalised_advantage(reward, ratio, value, mask, tau=0.3, decay=1.0)
    earned = losses.reward_to_go(reward, ratio, mask, 0.3)
    torch.testing.assert_close(found, earned - value * mask)
    torch.testing.assert_close(returns, earned)
    with pytest.raises(ValueError, match="thrice"):
        losses.generalised_advantage(reward, ratio, value[:, :1], mask, 0.3, 1.0)


@pytest.mark.slow
def test_the_value_function_learns_what_is_earned():
    critic = PolicyGradient(*unmoved(GradientConfig("ppo", baseline="value", gae=1.0)))
    responses = [[Completion("a"), Completion("b")]]
    draws = Draws(["x"], responses, torch.full((1, 2), 0.5, dtype=torch.float64), exact=False)
    for _ in range(2000):
        found = critic.step(draws, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert critic.critic(["x"], responses)[0, :, 0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert found["loss/value"] == pytest.approx(0.25, abs=1e-3)


def unmoved(config):
    """A policy that does not move, so that what it earns stays."""
    policy = TabularPolicy(finite_task("game", ("x",), RESPONSES, RESPONSES), START)
    training = Learner(policy, OptimiserConfig("sgd", learning_rate=1e-12))
    return training, policy.frozen(), 0.0, config


def test_the_values_of_tokens_do_not_depend_on_padding():
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    policy = make_policy("tiny", task=task)
    critic = critic_of(policy)
    torch.nn.init.normal_(critic.head.weight)
    prompts = list(task.prompts[:2])
    responses, _ = policy.draw(prompts, 3, Key(0))
    with torch.no_grad():
        together, alone = critic(prompts, responses), critic(prompts[:1], [responses[0][:1]])
    width = len(responses[0][0].tokens)
    assert together.shape[:2] == (2, 3)
    torch.testing.assert_close(together[0, 0, :width], alone[0, 0], atol=1e-5, rtol=1e-5)
    assert (together[0, 0, width:] == 0).all()
    mask = policy.token_logprob(prompts, responses)[1]
    assert together.shape == mask.shape


@pytest.mark.slow
def test_on_text_with_a_value_function_it_keeps_the_contract_of_an_agent():
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    task = dataclasses.replace(task, prompts=task.prompts[:3])
    config = SPOConfig(responses=2, gradient=VALUE, tau=0.1, average=False)
    check_agent(config.build(policy=make_policy("tiny", task=task)), DuelArena(task, oracles.make("bt"), 2, "outcome"))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "config", [SPOConfig(), SPOConfig(gradient=GradientConfig("ppo", epochs=3), tau=0.1, average=False)]
)
def test_it_keeps_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


def test_with_a_value_function_it_keeps_the_contract_of_an_agent():
    check_agent(*game(SPOConfig(gradient=VALUE), prompts=("x", "y")))
    with pytest.raises(ValueError, match="without exact"):
        game(SPOConfig(gradient=VALUE), exact=True)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GradientConfig, {"form": "sac"}, "form must be one of"),
        (GradientConfig, {"form": "grpo"}, "is an agent of its own: --agent grpo"),
        (GradientConfig, {"epochs": 2}, "epochs must be 1, or more with ppo and rebel"),
        (GradientConfig, {"eta": 0.0}, "eta must be positive"),
        (GradientConfig, {"clip": 0.0}, "clip must be positive"),
        (GradientConfig, {"baseline": "mean"}, "baseline must be one of"),
        (GradientConfig, {"baseline": "value"}, "belongs to form='ppo'"),
        (GradientConfig, {"gae": 1.1}, "gae must lie in"),
        (SPOConfig, {"tau": -0.1}, "tau must be at least 0"),
        (SPOConfig, {"pairs": "none"}, "pairs must be one of"),
        (SPOConfig, {"responses": 1}, "responses must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
