"""TDPO and CRINGE: where each ends, and terms of tokens that tables and language models share."""

import math
from functools import partial

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.sb3.sb3_config import SB3PolicyConfig
from agents.tokens.cringe import CRINGEConfig, contrasts
from agents.tokens.pairwise_cringe import PairwiseCRINGEConfig
from agents.tokens.tdpo import TDPOConfig
from envs import DuelArena, make_task
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from envs.votes.thumbs import Thumb
from oracles.table import TableOracle
from preference_duel.types import Completion
from tests.matrix_games import G3_REWARD, G3_START, RESPONSES, g3, game, law, play

SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None)}
TDPO1 = {"alpha": 1.0, "stop_winner": False}


def divergence(logits, reference, tokens):
    del tokens
    return losses.token_kl(logits, reference)


def test_tdpo1_ends_where_log_ratio_and_divergence_together_are_the_reward():
    """Responses 0, 00 and 000: b (r + K) = R + c, not DPO's (.1534, .6799, .1667).

    The last two share all but an end, so that b (r_b - r_c) = R_b - R_c, and K of both exceeds K of the first by
    K2 = KL(ref || pi) of that end: pi_b / pi_a = (3/5) e^(2 - K2).
    """
    agent, arena = g3(TDPOConfig(beta=0.5, **TDPO1, **SOLVED))
    play(agent, arena, 1)
    end = 1.5 * math.e / (1 + 1.5 * math.e)
    second = 0.6 * math.exp(2 - 0.6 * math.log(0.6 / end) - 0.4 * math.log(0.4 / (1 - end)))
    first = 1 / (1 + second / end)
    assert law(agent.policy).tolist() == pytest.approx(
        [first, first * second, first * second * (1 / end - 1)], abs=1e-5
    )
    assert first == pytest.approx(0.167982, abs=1e-6)
    responses = [[Completion(text) for text in RESPONSES]]
    with torch.no_grad():
        log_policy, drift = agent.policy.token_terms(["x"], responses, divergence, agent.reference)
    assert drift[0].min() > 0.01
    reward = 0.5 * (log_policy[0] - G3_START.log() + drift[0])
    assert (reward - reward[0]).tolist() == pytest.approx((G3_REWARD - G3_REWARD[0]).tolist(), abs=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_tdpo1_is_dpo_if_responses_have_one_token(exact):
    agent, arena = game(TDPOConfig(beta=0.5, **TDPO1, **STEPS), exact=exact)
    plain, its_arena = game(DPOConfig(tau=0.5, **STEPS), exact=exact)
    for _ in range(3):
        assert play(agent, arena, 1) == pytest.approx(play(plain, its_arena, 1), abs=1e-12)
    assert torch.allclose(law(agent.policy), law(plain.policy), rtol=0, atol=1e-12)


def test_tdpo2_pulls_on_towards_the_reference():
    """At the optimum of its loss with every gradient: what is missing is the winners' pull away from it."""
    agent, arena = g3(TDPOConfig(beta=0.5, stop_winner=False, **SOLVED))
    play(agent, arena, 1)
    optimum = law(agent.policy)
    other, _ = g3(TDPOConfig(beta=0.5, **STEPS))
    other.policy.load_state_dict(agent.policy.state_dict())
    assert play(other, arena, 1)["loss/grad_norm"] > 0.01
    assert (law(other.policy) - G3_START).abs().sum() < (optimum - G3_START).abs().sum() - 1e-3


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_cringe_on_two_responses_of_one_token(weight):
    """Likes q at sampling chances mu: pi(a) is mu_a q_a + weight mu_b (1 - q_b), over the sum of both."""
    task = finite_task("two", ("x",), RESPONSES[:2], RESPONSES[:2])
    start, payoff = torch.tensor([0.3, 0.7]).double(), torch.tensor([[0.5, 0.8], [0.2, 0.5]]).double()
    policy = TabularPolicy(task, start, exact=True)
    agent = CRINGEConfig(weight=weight, **SOLVED).build(policy=policy)
    play(agent, DuelArena(task, TableOracle(payoff, ("x",), RESPONSES[:2]), None, "probability"), 1)
    liked = payoff @ start
    kept = start * liked + weight * (start * (1 - liked)).flip(0)
    assert law(policy).tolist() == pytest.approx((kept / kept.sum()).tolist(), abs=1e-5)
    assert set(agent.state_dict()) == {"policy", "opponent", "optimiser", "updates"}


def test_terms_of_tokens_are_the_same_of_a_table_and_of_a_language_model():
    task = make_task("symbols", alphabet=3, length=2, prompts=2)
    model = TinyConfig(micro_tokens=20).build(task=task)
    start = model.frozen()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    listed = list(task.responses)
    table, its_start = (TabularPolicy(task, one.distribution(task.prompts, listed)) for one in (model, start))
    responses = [listed[1:5], listed[5:9]]
    for term in (divergence, partial(contrasts, 2)):
        expected = torch.stack(table.token_terms(task.prompts, responses, term, its_start))
        found = torch.stack(model.token_terms(task.prompts, responses, term, start))
        assert expected[1].min() > 0.01
        assert expected[1].std() > 1e-3
        assert torch.allclose(found.double(), expected, atol=1e-4)
    gradients = []
    for size in (20, 10_000):  # in parts that are read again, and at once
        model.micro_tokens = size
        model.zero_grad()
        model.token_terms(task.prompts, responses, divergence, start)[1].square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()
    assert all(parameter.grad is None for parameter in start.parameters())


def test_policies_without_logits_of_tokens_are_refused():
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    policy = SB3PolicyConfig().build(task=task)
    agent, table = TDPOConfig().build(policy=policy), TabularPolicy(task)
    duel = DuelArena(task, TableOracle(torch.full((4, 4), 0.5), task.prompts, task.response_texts), None)
    duel.reset()
    with pytest.raises(TypeError, match="SB3Policy tells no logits of tokens"):
        agent.update(duel.play(agent.propose(task.prompts)))
    with pytest.raises(TypeError, match="the reference of a table must be a table"):
        table.token_terms(task.prompts, [list(task.responses)], divergence, policy)


@pytest.mark.parametrize("kind", [TDPOConfig, CRINGEConfig, PairwiseCRINGEConfig])
def test_on_text_it_learns_from_a_file_and_keeps_the_contract(kind):
    task = make_task("chat")
    texts = "Set the saddle height, then pump the tires.", "Pump the tires."
    pairs = [Preference(prompt, *texts, 1.0) for prompt in task.prompts[:2]]
    policy = TinyConfig(micro_tokens=60).build(task=task)
    agent = kind(average=False, optimiser=OptimiserConfig("sgd", learning_rate=0.02, warmup=0)).build(policy=policy)
    arena = FileArena(task, pairs, 2)
    first = agent.update(arena.play())["loss/policy"]
    assert agent.update(arena.play())["loss/policy"] < first


def test_cringe_learns_from_thumbs_down_alone():
    """The disliked response gives way, token by token."""
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    policy = TabularPolicy(task, exact=False)
    arena = FileArena(task, [Thumb("#0", "ab", 0.0)], 1)
    agent = CRINGEConfig(**STEPS).build(policy=policy)
    agent.update(arena.play())
    probs = policy.distribution(["#0"], list(task.responses))[0]
    assert probs.argmin().item() == task.response_texts.index("ab")


@pytest.mark.parametrize("kind", [TDPOConfig, CRINGEConfig, PairwiseCRINGEConfig])
def test_it_keeps_the_contract_on_whole_distributions(kind):
    check_agent(*game(kind(average=False), exact=True, prompts=("x", "y")))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (TDPOConfig, {"alpha": -1.0}, "alpha must be at least 0"),
        (CRINGEConfig, {"top_k": 0}, "top_k must be at least 1"),
        (PairwiseCRINGEConfig, {"temperature": 0.0}, "temperature must be positive"),
        (PairwiseCRINGEConfig, {"renew_reference_every": 2}, "no reference to renew"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
