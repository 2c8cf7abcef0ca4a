"""PPO-ptx: the distributions at which it rests, its controllers of the KL coefficient, its corpus, what it refuses."""

import json

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.learning.corpus import CorpusConfig
from agents.learning.kl_control import KLControlConfig
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.ppo_ptx import PPOPTXConfig
from agents.spo import SPOConfig
from envs import DuelArena, make_task
from oracles import make as make_oracle
from tests.matrix_games import COMAL, G3_REWARD, G3_START, g3, game, law, play

STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate=1.0, warmup=0, max_grad_norm=None)}
FROZEN = {**STEPS, "reward": "log_odds", "tau": 0.5}


def written(tmp_path, rows):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def demonstrations(tmp_path, texts):
    return written(tmp_path, [{"prompt": "x", "response": text} for text in texts])


@pytest.mark.parametrize(
    ("gradient", "rest"),
    [
        (GradientConfig("ppo"), (0.153357, 0.679897, 0.166747)),
        (GradientConfig(kl="loss"), (0.203642, 0.658928, 0.137430)),
        (GradientConfig(entropy=0.5), None),
    ],
    ids=["ref exp(R / tau) / Z", "k3: tau ref / (c - R)", "entropy"],
)
def test_it_rests_at_the_optimum_of_a_frozen_reward(gradient, rest):
    agent, arena = g3(PPOPTXConfig(gradient=gradient, **FROZEN))
    play(agent, arena, 250)
    if rest is None:
        rest = torch.softmax((0.5 * G3_START.log() + G3_REWARD) / (0.5 + 0.5), 0).tolist()
    assert law(agent.policy).tolist() == pytest.approx(rest, abs=1e-5)


def test_a_corpus_moves_the_rest_point_to_ptxs(tmp_path):
    """Where pi (R - b log pi/ref - c) + g d = 0, d the corpus' distribution (.6, .1, .3)."""
    corpus = CorpusConfig(demonstrations(tmp_path, "aaaaaabccc"), weight=0.3)
    agent, arena = g3(PPOPTXConfig(corpus=corpus, **FROZEN))
    play(agent, arena, 150)
    policy, share = law(agent.policy), torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    assert policy.tolist() == pytest.approx([0.304456, 0.470080, 0.225463], abs=1e-5)
    constant = G3_REWARD - 0.5 * (policy / G3_START).log() + 0.3 * share / policy
    assert constant.std().item() == pytest.approx(0, abs=1e-5)


def test_zieglers_controller_settles_where_the_optimum_is_at_the_target():
    control = KLControlConfig(target=0.1, horizon=10.0)
    agent, arena = g3(PPOPTXConfig(control=control, **FROZEN))
    scalars = play(agent, arena, 300)
    assert scalars["policy/tau"] == pytest.approx(0.989661, abs=1e-5)
    assert scalars["policy/kl"] == pytest.approx(0.1, abs=1e-6)
    optimum = torch.softmax(G3_START.log() + G3_REWARD / 0.989661, 0)
    assert law(agent.policy).tolist() == pytest.approx(optimum.tolist(), abs=1e-5)


def test_schulmans_controller_keeps_the_kl_of_solved_steps_inside_its_band():
    control, tau = KLControlConfig(target=0.1, form="schulman"), 0.125
    for _ in range(9):
        policy = torch.softmax(G3_START.log() + G3_REWARD / tau, 0)
        kl = (policy * (policy / G3_START).log()).sum().item()
        tau = control.next(tau, kl, 3)
    assert tau == 1.0
    assert 0.1 / 1.5 < kl < 0.15


def test_the_steps_of_both_controllers_by_hand():
    ziegler = KLControlConfig(target=6.0)
    assert ziegler.next(0.1, 9.0, 64) == pytest.approx(0.1 * (1 + 0.2 * 64 / 10_000))
    assert ziegler.next(0.1, 5.7, 64) == pytest.approx(0.1 * (1 - 0.05 * 64 / 10_000))
    schulman = KLControlConfig(target=6.0, form="schulman")
    assert [schulman.next(0.1, kl, 64) for kl in (9.1, 8.9, 4.1, 3.9)] == [0.2, 0.1, 0.1, 0.05]
    assert KLControlConfig().next(0.1, 9.0, 64) == 0.1


def test_rebel_in_a_trust_region_is_the_natural_gradients_step():
    """F^-1 g = R - E R, of length sqrt(2 delta / Var R) = .324443 at delta .01."""
    gradient = GradientConfig("rebel", trust_region=0.01)
    config = SPOConfig(gradient=gradient, average=False, optimiser=OptimiserConfig("lbfgs"))
    agent, arena = g3(config)
    agent._gradient.step(_draws(agent, arena), G3_REWARD[None])
    policy = law(agent.policy)
    assert policy.tolist() == pytest.approx([0.434706, 0.360787, 0.204507], abs=1e-5)
    assert (G3_START * (G3_START / policy).log()).sum().item() == pytest.approx(0.010160, abs=1e-5)
    fisher = torch.diag(G3_START) - G3_START[:, None] * G3_START
    slope = G3_START * (G3_REWARD - (G3_START * G3_REWARD).sum())
    natural = torch.linalg.pinv(fisher) @ slope
    step = (0.02 / (slope @ natural)).sqrt()
    assert step.item() == pytest.approx(0.324443, abs=1e-6)
    assert torch.allclose(policy, torch.softmax(G3_START.log() + step * natural, 0), atol=1e-6)


def _draws(agent, arena):
    from agents.learning.policy_gradient import Draws

    duel = arena.play(agent.propose(arena.reset()))
    return Draws(duel.prompts, duel.left, duel.left_weight, duel.exact)


def test_equal_rewards_take_no_step_in_a_trust_region():
    gradient = GradientConfig("rebel", trust_region=0.01)
    agent, arena = g3(SPOConfig(gradient=gradient, average=False, optimiser=OptimiserConfig("lbfgs")))
    agent._gradient.step(_draws(agent, arena), torch.ones(1, 3, dtype=torch.float64))
    assert law(agent.policy).tolist() == pytest.approx(G3_START.tolist(), abs=1e-9)


def test_a_clipped_value_pays_no_more_beyond_its_range():
    value = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    target, before = torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3)
    distance = losses.value_distance(value, target, before, 0.2)
    assert distance.tolist() == pytest.approx([0.81, 0.64, 2.25])
    distance.sum().backward()
    assert value.grad.tolist() == pytest.approx([-1.8, 0.0, -3.0])
    assert losses.value_distance(value, target, before, None).tolist() == pytest.approx([0.81, 0.25, 2.25])
    with pytest.raises(ValueError, match="must have one shape"):
        losses.value_distance(value, target[:2], before, None)


@pytest.mark.parametrize("exact", [True, False])
def test_it_keeps_the_contract_of_an_agent(exact, tmp_path):
    corpus = CorpusConfig(demonstrations(tmp_path, "ab"), weight=0.1, batch_size=3)
    control = KLControlConfig(target=0.1, horizon=10.0)
    gradient = GradientConfig("ppo", epochs=2, entropy=0.01)
    if not exact:
        gradient = GradientConfig("ppo", baseline="value", value_clip=0.2, kl="loss")
    check_agent(*game(PPOPTXConfig(corpus=corpus, control=control, gradient=gradient), exact=exact))


@pytest.mark.slow
def test_on_text_a_corpus_of_other_prompts_grows_likelier(tmp_path):
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    rows = [{"prompt": prompt, "response": "Pump the tires."} for prompt in task.prompts[:3]]
    corpus = CorpusConfig(written(tmp_path, rows), weight=1.0, batch_size=4)
    agent = PPOPTXConfig(responses=2, corpus=corpus, average=False).build(policy=TinyConfig().build(task=task))
    arena = DuelArena(task, make_oracle("bt"), 2)
    batch = agent._corpus.batch(agent.key())
    with torch.no_grad():
        before = agent.policy.logprob(batch.prompts, batch.responses).mean()
    play(agent, arena, 3)
    with torch.no_grad():
        assert agent.policy.logprob(batch.prompts, batch.responses).mean() > before


def test_log_odds_of_outcomes_and_demonstrations_that_can_not_be_written_are_refused(tmp_path):
    agent, arena = game(PPOPTXConfig(reward="log_odds"), COMAL)
    with pytest.raises(ValueError, match="needs probabilities, and this duel holds outcomes"):
        play(agent, arena, 1)
    config = PPOPTXConfig(corpus=CorpusConfig(demonstrations(tmp_path, "ad")))
    with pytest.raises(ValueError, match="the task has no response 'd'"):
        play(*game(config, exact=True), 1)
    with pytest.raises(ValueError, match="no demonstrations"):
        game(PPOPTXConfig(corpus=CorpusConfig(written(tmp_path, []))))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PPOPTXConfig, {"responses": 1}, "responses must be at least 2"),
        (PPOPTXConfig, {"tau": 0.0}, "tau must be at least 1e-12, got 0.0: .*spo"),
        (PPOPTXConfig, {"reward": "score"}, "reward must be one of"),
        (KLControlConfig, {"target": 0.0}, "target must be positive"),
        (KLControlConfig, {"horizon": 0.0}, "horizon must be positive"),
        (CorpusConfig, {"weight": 0.0}, "weight must be positive"),
        (CorpusConfig, {"batch_size": 0}, "batch_size must be at least 1"),
        (GradientConfig, {"entropy": -1.0}, "entropy must be at least 0"),
        (GradientConfig, {"trust_region": 0.01}, "a trust region belongs to form='rebel'"),
        (GradientConfig, {"form": "rebel", "kl": "loss"}, "take kl='return'"),
        (GradientConfig, {"value_clip": 0.2}, "take baseline='value'"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
