"""RLHF: its reward against the maximum of the likelihood, where it ends, its forms, the contract of an agent."""

import dataclasses
import math

import pytest
import torch

import oracles
from agents import make_policy
from agents.check import check_agent
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.preference_models.factory import ModelConfig
from agents.rlhf import RLHF, RLHFConfig
from envs import make_task
from envs.arena import DuelArena
from envs.games import bradley_terry_fit, exploitability, regularised_nash
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion
from tests.matrix_games import COMAL, RANKED, RESPONSES, REWARD, START, game, law, play

FORMS = "ppo", "rebel", "value"


def test_the_reward_maximises_the_likelihood_of_the_counts():
    model = DuelCounts(TabularPolicy(finite_task("game", ("x",), RESPONSES, RESPONSES)).cells)
    model.wins[0] = torch.tensor([[0, 9, 2], [1, 0, 5], [2, 3, 0]], dtype=torch.float64)
    reward = model.reward(["x"], [[Completion(text) for text in RESPONSES]])[0].requires_grad_()
    seen = model.wins[0] + 0.5
    likelihood = (seen * torch.nn.functional.logsigmoid(reward[:, None] - reward)).fill_diagonal_(0).sum()
    likelihood.backward()
    assert reward.grad.abs().max() < 1e-4
    assert reward.detach().mean().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["table", "tiny"])
def test_a_game_of_one_response_teaches_nothing_and_is_no_error(kind):
    task = finite_task("game", ("x",), ["only"], ["only"])
    policy = TabularPolicy(task, exact=True) if kind == "table" else TinyConfig(exact=True).build(task=task)
    agent = RLHFConfig(average=False, model=ModelConfig(planes=0, steps=1)).build(policy=policy)
    arena = DuelArena(task, TableOracle(torch.tensor([[[0.5]]]), ("x",), ("only",)), 1)
    for _ in range(2):
        scalars = play(agent, arena, 1)
        assert all(math.isfinite(value) for value in scalars.values())
        assert not any(tag.startswith(("model/", "loss/model")) for tag in scalars)  # nothing was asked


def test_fits_take_the_weights_of_pairs_as_they_are():
    pairs = torch.tensor([[0.0, 4, 1], [4, 0, 1], [1, 1, 0]], dtype=torch.float64)
    fit = bradley_terry_fit(COMAL, pairs=pairs)
    gradient = (pairs * (torch.sigmoid(fit[:, None] - fit) - COMAL)).sum(1)
    assert gradient.abs().max() < 1e-5
    with pytest.raises(ValueError, match="pairs must be"):
        bradley_terry_fit(COMAL, pairs=pairs.triu())


@pytest.mark.slow
@pytest.mark.parametrize("tau", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_exact_play_on_a_ranking_ends_at_the_optimum_of_the_reward(tau):
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, warmup=0, max_grad_norm=None)
    agent, arena = game(RLHFConfig(tau=tau, average=False, optimiser=optimiser), RANKED, exact=True)
    play(agent, arena, 400)
    goal = torch.softmax(START.log() + REWARD / tau, 0)
    torch.testing.assert_close(law(agent.policy), goal, atol=5e-5, rtol=0)


@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow) for form in ("reinforce", *FORMS)])
def test_on_a_ranking_it_ends_near_the_optimum_of_the_reward(form):
    ppo, baseline = form in ("ppo", "value"), "value" if form == "value" else "draws"
    gradient = GradientConfig("ppo" if ppo else form, epochs=1 + ppo, baseline=baseline)
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    agent, arena = game(RLHFConfig(tau=0.5, gradient=gradient, average=False, optimiser=optimiser), RANKED)
    play(agent, arena, 1500)
    goal = torch.softmax(START.log() + REWARD / 0.5, 0)
    assert (law(agent.policy) - goal).abs().sum() < 0.25 * (START - goal).abs().sum()


@pytest.mark.slow
def test_on_a_cycle_it_ends_beside_the_equilibrium():
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    agent, arena = game(RLHFConfig(tau=0.1, average=False, optimiser=optimiser))
    play(agent, arena, 1000)
    nash = regularised_nash(COMAL, START, 0.1).policy
    assert exploitability(COMAL, law(agent.policy)) > exploitability(COMAL, nash) + 0.02


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("config", [RLHFConfig(), RLHFConfig(inner_steps=2, gradient=GradientConfig("ppo", epochs=2))])
def test_it_keeps_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


@pytest.mark.slow
def test_on_text_it_keeps_the_contract_of_an_agent():
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    task = dataclasses.replace(task, prompts=task.prompts[:3])
    config = RLHFConfig(responses=2, model=ModelConfig(planes=0, steps=1, batch_size=4), average=False)
    agent = RLHF(config, make_policy("tiny", task=task), 0)
    check_agent(agent, DuelArena(task, oracles.make("bt"), 2, "outcome"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.0}, "tau must be positive"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"model": ModelConfig(planes=2)}, "planes must be 0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RLHFConfig(**fields)


@pytest.mark.parametrize("exact", [True, False])
def test_a_game_of_one_response_is_played_and_changes_nothing(exact):
    task = finite_task("alone", ["x"], ["only"], ["only"])
    arena = DuelArena(task, TableOracle(torch.full((1, 1), 0.5), ["x"], ["only"]), None, "probability", seed=0)
    agent = RLHFConfig().build(policy=TabularPolicy(task, torch.ones(1), exact=exact), seed=0)
    scalars = play(agent, arena, 3)
    assert (scalars["policy/kl"], scalars["loss/policy"], scalars["loss/grad_norm"]) == (0, 0, 0)
    assert agent.model.reward(["x"], [[Completion("only")]]).tolist() == [[0]]
