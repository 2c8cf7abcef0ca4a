"""GRPO and RLOO: gradients by hand and by enumeration, rest points, the pairs asked, the contract of an agent."""

import dataclasses
import json
import math

import pytest
import torch
from scipy.optimize import brentq, root

import oracles
from agents import losses, make_policy
from agents.check import check_agent
from agents.grpo import GRPOConfig
from agents.learning.batch import Batch
from agents.learning.held_groups import HeldGroups
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.rloo import RLOOConfig
from agents.spo import SPOConfig
from benchmarks.group_rest_points import GAMES, all_groups, rest_point
from benchmarks.group_rest_points import game as named_game
from envs import make_task
from envs.arena import DuelArena
from envs.games import exploitability, regularised_nash
from preference_duel import groups
from preference_duel.types import Completion, Conversation
from runners.duel import main
from tests.matrix_games import COMAL, START, game, law, play
from tests.paths import GOLDEN
from tests.tiny_models import policy_of, text_task, write_model

PLAIN = OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None, warmup=0)
SCHEDULES = "all_pairs", "circular", "chunks", "anchor"


def step(config, exact=True, prompts=("x",)):
    """What one update adds to the logits."""
    agent, arena = game(dataclasses.replace(config, optimiser=PLAIN, average=False), exact=exact, prompts=prompts)
    arena.feedback = "probability"
    before = agent.policy.logits.detach().clone()
    play(agent, arena, 1)
    return agent.policy.logits.detach() - before


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize("config", [GRPOConfig(scale_rewards=False, kl="return"), RLOOConfig()])
def test_the_exact_gradient_without_std_is_that_of_spo(config, tau):
    expected = step(SPOConfig(tau=tau))
    torch.testing.assert_close(step(dataclasses.replace(config, tau=tau)), expected, atol=1e-12, rtol=0)
    if tau == 0:
        torch.testing.assert_close(expected[0], START * (COMAL @ START - 0.5), atol=1e-12, rtol=0)


@pytest.fixture
def sampled_elsewhere(tmp_path):
    """A language model, and a duel whose first sample came half as likely from its sampler, and the second twice."""
    policy = policy_of(write_model(tmp_path), text_task(tmp_path, 3, 3), compute="float32")
    arena = DuelArena(text_task(tmp_path, 3, 3), oracles.make("bt"), 1, feedback="probability")
    duel = arena.play(SPOConfig(responses=2).build(policy=policy).propose(arena.reset()))
    moved = [
        dataclasses.replace(y, token_logprob=(y.token_logprob[0] + move, *y.token_logprob[1:]))
        for y, move in zip(duel.left[0], (-math.log(2), math.log(2)), strict=True)
    ]
    left = [moved]
    return policy, dataclasses.replace(duel, left=left, right=left)


@pytest.mark.parametrize("kind", ["grpo", "spo"])
def test_a_token_counts_as_much_as_its_sampler_missed_it_up_to_the_cap(sampled_elsewhere, kind, monkeypatch):
    policy, duel = sampled_elsewhere
    seen = []
    monkeypatch.setattr(losses, "sampler_weight", lambda *a, f=losses.sampler_weight: seen.append(f(*a)) or seen[-1])
    norms = {}
    for cap in (None, 1.5, 1e-3):
        gradient = GradientConfig(sampler_cap=cap)
        config = GRPOConfig(tau=0, sampler_cap=cap) if kind == "grpo" else SPOConfig(gradient=gradient)
        scalars = (
            dataclasses.replace(config, optimiser=PLAIN, average=False)
            .build(policy=policy.frozen().requires_grad_())
            .update(duel)
        )
        norms[cap] = scalars["loss/grad_norm"]
    assert torch.allclose(seen[0], torch.tensor([[[1.5, 1, 1], [0.5, 1, 1]]]), atol=1e-4)
    assert norms[1e-3] == pytest.approx(1e-3 * norms[None], rel=1e-4)
    assert scalars["policy/sampler_gap"] == pytest.approx(math.log(2), abs=1e-4)
    assert scalars["policy/sampler_gap_max"] == pytest.approx(math.log(2), abs=1e-4)


def test_weights_of_samplers_need_their_log_probabilities():
    with pytest.raises(ValueError, match=r"exact policies, tables and a server of vLLM do not: leave sampler_cap out"):
        step(GRPOConfig(sampler_cap=2.0))
    with pytest.raises(ValueError, match="rebel regresses on responses"):
        GradientConfig(form="rebel", sampler_cap=2.0)
    with pytest.raises(ValueError, match=r"sampled and mask must have one shape, got \(1, 1, 2\), \(1, 1, 3\)"):
        losses.sampler_weight(torch.zeros(1, 1, 2), torch.zeros(1, 1, 3), torch.ones(1, 1, 2).bool(), 2.0)


def test_rloo_on_all_pairs_of_samples_is_spo():
    prompts = tuple("uvwx")
    expected = step(SPOConfig(tau=0.3), exact=False, prompts=prompts)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(step(RLOOConfig(tau=0.3), exact=False, prompts=prompts), expected, atol=1e-12, rtol=0)
    shorter = step(RLOOConfig(tau=0.3, baseline="mean"), exact=False, prompts=prompts)
    assert (shorter - expected).abs().max() > 1e-3


def test_the_exact_limit_rests_at_the_regularised_nash_policy():
    fast = dataclasses.replace(PLAIN, learning_rate=2.0)
    config = GRPOConfig(tau=0.3, kl="return", scale_rewards=False, average=False, optimiser=fast)
    agent, arena = game(config, exact=True)
    play(agent, arena, 200)
    torch.testing.assert_close(law(agent.policy), regularised_nash(COMAL, START, 0.3).policy, atol=1e-5, rtol=0)


def test_with_k3_it_is_still_at_the_equilibrium_of_the_other_divergence():
    policy = torch.from_numpy(root(lambda p: p * (0.6 - COMAL.numpy() @ p) - 0.1 * START.numpy(), START, tol=1e-14).x)
    assert (policy - regularised_nash(COMAL, START, 0.1).policy).abs().max() > 0.01
    config = GRPOConfig(tau=0.1, kl="loss", scale_rewards=False, average=False, optimiser=PLAIN)
    agent, arena = game(config, exact=True)
    assert play(agent, arena, 1)["loss/grad_norm"] > 0.01
    with torch.no_grad():
        agent.policy.logits.copy_(policy.log())
    assert play(agent, arena, 1)["loss/grad_norm"] < 1e-9


def test_an_exact_std_is_still_at_the_nash_policy_of_tau_times_the_std():
    def excess(tau):
        policy = regularised_nash(COMAL, START, tau).policy
        return float(2.0 * ((policy * (COMAL @ policy - 0.5).square()).sum().sqrt() + 1e-4)) - tau

    still = regularised_nash(COMAL, START, brentq(excess, 1e-3, 2.0, xtol=1e-14)).policy
    agent, arena = game(GRPOConfig(tau=2.0, kl="return", average=False, optimiser=PLAIN), exact=True)
    assert play(agent, arena, 1)["loss/grad_norm"] > 0.1
    with torch.no_grad():
        agent.policy.logits.copy_(still.log())
    assert play(agent, arena, 1)["loss/grad_norm"] < 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_std_every_schedule_expects_the_win_rate_and_rloo_k_over_k_minus_1_of_it(schedule):
    gain = COMAL @ START - 0.5
    for leave_one_out, factor in ((False, 1), (True, 4 / 3)):
        found = all_groups(COMAL, 4, schedule, leave_one_out=leave_one_out, scale=False)
        expected = found.expected_advantage(START)
        expected = expected - (START * expected).sum()
        torch.testing.assert_close(expected, factor * gain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["comal3", *(pytest.param(name, marks=pytest.mark.slow) for name in GAMES[1:])])
def test_std_moves_the_rest_point_and_circular_alone_does_not(name):
    payoff = named_game(name)
    nash = regularised_nash(payoff, START, 0.1).policy

    def away(schedule, scale):
        return (rest_point(all_groups(payoff, 4, schedule, scale=scale), START, 0.1).policy - nash).abs().sum() / 2

    assert max(away("all_pairs", False), away("circular", False)) < 1e-9
    assert min(away("all_pairs", True), away("circular", True)) > 0.01


def test_rloo_rests_at_the_nash_policy_of_a_smaller_tau():
    rest = rest_point(all_groups(COMAL, 4, leave_one_out=True, scale=False), START, 0.2)
    torch.testing.assert_close(rest.policy, regularised_nash(COMAL, START, 0.15).policy, atol=1e-9, rtol=0)


def test_scores_rest_at_the_nash_policy_of_the_rounded_game():
    rounded = 0.5 + (groups.genrm_score(COMAL) - 3) / 4
    rest = rest_point(all_groups(COMAL, 4, aggregate="scores", scale=False), START, 0.4)
    torch.testing.assert_close(rest.policy, regularised_nash(rounded, START, 0.1).policy, atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scores_of_single_outcomes_are_win_rates_between_1_and_5(schedule):
    agent, arena = game(GRPOConfig(responses=8), prompts=tuple("uvwx"))
    duel = arena.play(agent.propose(arena.reset()))
    compared, equal = groups.meetings(schedule, [[response.text for response in row] for row in duel.left])
    prob = torch.where(equal, 0.5, duel.prob)
    scores = groups.aggregate(prob, compared, "scores")
    torch.testing.assert_close(scores, 1 + 4 * groups.aggregate(prob, compared, "win_rate"), atol=1e-12, rtol=0)


@pytest.mark.parametrize("feedback", ["probability", "outcome"])
@pytest.mark.parametrize(
    ("schedule", "aggregate"), [("all_pairs", "win_rate"), ("circular", "scores"), ("anchor", "bt")]
)
def test_the_mean_of_many_sampled_steps_is_the_enumerated_one(schedule, aggregate, feedback):
    prompts = tuple(map(str, range(3000)))
    config = GRPOConfig(tau=0.0, schedule=schedule, aggregate=aggregate, average=False, optimiser=PLAIN)
    agent, arena = game(config, prompts=prompts)
    arena.feedback = feedback
    before = agent.policy.logits.detach().clone()
    play(agent, arena, 1)
    steps = (agent.policy.logits.detach() - before) * len(prompts)
    gain = all_groups(COMAL, 4, schedule, aggregate, feedback=feedback).expected_advantage(START)
    error = steps.std(0) / len(prompts) ** 0.5
    assert ((steps.mean(0) - START * (gain - (START * gain).sum())).abs() < 4 * error).all()
    assert (error < 0.01).all()


def test_every_scheduled_pair_counts_as_a_query_and_equal_texts_tie_whatever_the_outcome():
    agent, arena = game(GRPOConfig(schedule="circular", responses=6), prompts=tuple("uvwx"))
    duel = arena.play(agent.propose(arena.reset()))
    assert arena.queries == int(duel.comparisons.sum()) == 24
    equal = torch.tensor([[[one.text == other.text for other in row] for one in row] for row in duel.left])
    assert duel.prob[equal & duel.asked].unique().tolist() == [0, 1]
    twin, _ = game(GRPOConfig(schedule="circular", responses=6), prompts=tuple("uvwx"))
    agent.update(duel)
    twin.update(dataclasses.replace(duel, prob=torch.where(equal, 1 - duel.prob, duel.prob)))
    assert torch.equal(agent.policy.logits, twin.policy.logits)


def test_unanswered_pairs_are_dropped_and_a_sample_without_answers_is_refused():
    agent, arena = game(GRPOConfig(tau=0.0, scale_rewards=False, average=False, optimiser=PLAIN), seed=1)
    duel = arena.play(agent.propose(arena.reset()))
    texts = [response.text for response in duel.left[0]]
    assert min(map(texts.count, texts)) == 1
    none = dataclasses.replace(duel, asked=torch.zeros_like(duel.asked))
    with pytest.raises(ValueError, match="no answered comparison"):
        agent.update(none)
    dropped = duel.asked.clone()
    dropped[0, 0, 1] = dropped[0, 1, 0] = False
    wrong = duel.prob.clone()
    wrong[0, 0, 1], wrong[0, 1, 0] = 1e6, -1e6
    assert all(v == v for v in agent.update(dataclasses.replace(duel, asked=dropped, prob=wrong)).values())
    assert agent.policy.logits.abs().max() < 10


def test_group_advantages_and_k3_by_hand():
    reward = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
    weight = torch.full_like(reward, 0.25)
    assert losses.group_advantage(reward, weight, scale=False)[0].tolist() == [1, 0, -1, 0]
    others = losses.group_advantage(reward, weight, scale=False, leave_one_out=True)
    assert others[0].tolist() == pytest.approx([4 / 3, 0, -4 / 3, 0])
    std = (2 / 3) ** 0.5 + 1e-4
    assert losses.group_advantage(reward, weight)[0].tolist() == pytest.approx([1 / std, 0, -1 / std, 0])
    share = torch.tensor([[0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    exact = losses.group_advantage(reward, share, exact=True)
    assert exact[0].tolist() == pytest.approx([1 / 1.0001, 0, -1 / 1.0001, 0])
    assert losses.group_advantage(torch.ones_like(reward), weight).abs().max() == 0
    with pytest.raises(ValueError, match="at least 2 samples"):
        losses.group_advantage(reward[:, :1], weight[:, :1])
    with pytest.raises(ValueError, match=r"must both be \[B, K\]"):
        losses.group_advantage(reward, weight[:, :1])
    log_policy = torch.tensor([[[0.0, 5.0], [-1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[True, False], [True, True]]])
    penalty = losses.k3(log_policy, torch.zeros_like(log_policy), mask)
    assert penalty[0].tolist() == pytest.approx([0, torch.tensor(1.0).exp().item() - 2])
    penalty.sum().backward()
    assert log_policy.grad[0].tolist() == [[0, 0], [pytest.approx(1 - torch.tensor(1.0).exp().item()), 0]]
    with pytest.raises(ValueError, match="one shape"):
        losses.k3(log_policy, log_policy[:, :1], mask)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GRPOConfig(tau=0.1, kl="return"), RLOOConfig(tau=0.1, schedule="circular")])
def test_outcomes_lower_the_gap(config):
    config = dataclasses.replace(config, optimiser=OptimiserConfig(learning_rate=0.03, decay=200.0))
    agent, arena = game(config)
    play(agent, arena, 400)
    assert exploitability(COMAL, law(agent.average)) < 0.7 * exploitability(COMAL, START)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        GRPOConfig(),
        GRPOConfig(kl="return", epochs=3, schedule="anchor", aggregate="scores", average=False),
        RLOOConfig(schedule="circular"),
    ],
)
def test_it_keeps_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


HOLDING = GRPOConfig(tau=0, responses=3, redraws=5, optimiser=PLAIN, average=False)
"""Of three samples all are equal, or their outcomes a cycle, in more than one group of four."""


def test_agents_that_hold_groups_keep_the_contract():
    agent, arena = game(dataclasses.replace(HOLDING, epochs=2, average=True), prompts=("x", "y"))
    check_agent(agent, arena)
    assert not agent.batchable
    stepped = ["loss/policy" in play(agent, arena, 1) for _ in range(4)]
    assert not all(stepped[:2])  # what the check plays again begins with a group that is held
    assert any(stepped)


def test_a_step_on_held_groups_is_that_of_their_duels_longer_by_the_dead_ones():
    prompts = tuple("uvwxyz")
    agent, arena = game(HOLDING, prompts=prompts)
    start, size = agent.policy.logits.detach().clone(), len(prompts)
    apart, dead = torch.zeros_like(start), []
    while True:
        duel = arena.play(agent.propose(arena.reset()))
        scalars = agent.update(duel)
        dead.append(scalars["duel/flat_groups"])
        alone, _ = game(dataclasses.replace(HOLDING, redraws=None), prompts=prompts)
        alone.update(duel)
        apart += size * (alone.policy.logits.detach() - start)
        if "loss/policy" in scalars:
            break
        assert torch.equal(agent.policy.logits, start)
    living = size * sum(1 - share for share in dead)
    assert len(dead) > 1
    assert living >= size
    assert scalars["duel/groups"] == pytest.approx(living)
    torch.testing.assert_close(agent.policy.logits.detach() - start, apart / living, atol=1e-12, rtol=0)
    assert arena.queries == 3 * size * len(dead)


def test_dead_groups_are_left_out_without_another_duel_if_it_may_not_draw_again():
    duel, steps = None, {}
    for redraws in (None, 0):
        agent, arena = game(dataclasses.replace(HOLDING, redraws=redraws), prompts=tuple("uvwxyz"))
        duel = duel or arena.play(agent.propose(arena.reset()))
        before = agent.policy.logits.detach().clone()
        share = agent.update(duel)["duel/flat_groups"]
        steps[redraws] = agent.policy.logits.detach() - before
    assert 0 < share < 1
    torch.testing.assert_close(steps[0] * (1 - share), steps[None], atol=1e-12, rtol=0)


def test_groups_that_are_all_dead_cost_their_queries_and_move_nothing():
    agent, arena = game(dataclasses.replace(HOLDING, redraws=1, tau=0.1), prompts=("x", "y"))
    with torch.no_grad():
        agent.policy.logits[:, 0] += 100
    before = agent.policy.logits.detach().clone()
    for _ in range(5):
        assert play(agent, arena, 1) == {"duel/flat_groups": 1.0}
    assert torch.equal(agent.policy.logits, before)
    assert arena.queries == 5 * 2 * 3
    assert agent.held.state_dict() == {"duels": 1, "groups": "[]"}


def test_held_groups_come_back_whole_from_a_checkpoint():
    chat = Conversation([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    responses = [Completion("a", (1, 2), (-0.1, -1 / 3)), Completion("b", (2,)), Completion("c")]
    value = torch.tensor([[1 / 3, -0.2, 0.1]] * 2, dtype=torch.float64)
    held, again = HeldGroups(3), HeldGroups(3)
    assert held.add(Batch([chat, "x"], [responses] * 2, {"weight": value}), torch.tensor([True, False])) is None
    again.load_state_dict(json.loads(json.dumps(held.state_dict())))
    assert again.state_dict() == held.state_dict()
    (ours,), (theirs,) = held.groups, again.groups
    assert theirs.prompts[0].messages == chat.messages
    assert [dataclasses.astuple(y) for y in theirs.responses[0]] == [dataclasses.astuple(y) for y in responses]
    assert torch.equal(theirs["weight"], ours["weight"])


@pytest.mark.slow
@pytest.mark.parametrize("config", [GRPOConfig(epochs=2, aggregate="bt"), RLOOConfig(responses=2)])
def test_on_text_it_keeps_the_contract_of_an_agent(config):
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    task = dataclasses.replace(task, prompts=task.prompts[:3])
    config = dataclasses.replace(config, average=False)
    check_agent(config.build(policy=make_policy("tiny", task=task)), DuelArena(task, oracles.make("bt"), 2, "outcome"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": -0.1}, "tau must be at least 0"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"schedule": "swiss"}, "schedule must be one of"),
        ({"aggregate": "elo"}, "aggregate must be one of"),
        ({"baseline": "value"}, "baseline must be one of"),
        ({"kl": "k2"}, "kl must be one of"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip_high": -0.1}, "clip_high must be positive"),
        ({"token_mean": "group"}, "token_mean must be one of"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"redraws": -1}, "redraws must be at least 0, or None"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    for kind in (GRPOConfig, RLOOConfig):
        with pytest.raises(ValueError, match=message):
            kind(**fields)


def test_an_infinite_group_has_no_bradley_terry_fit_and_seats_must_agree():
    with pytest.raises(ValueError, match="without exact"):
        game(GRPOConfig(aggregate="bt"), exact=True)
    with pytest.raises(ValueError, match="redraws are of sampled groups"):
        game(GRPOConfig(redraws=0), exact=True)
    agent, arena = game(GRPOConfig())
    duel = arena.play(agent.propose(arena.reset()))
    with pytest.raises(ValueError, match="its own samples"):
        agent.update(dataclasses.replace(duel, right=[list(row) for row in duel.left]))


def test_a_run_that_began_with_the_former_form_names_the_agent(tmp_path, capsys):
    options = "--task rps --agent spo --run.steps 1 --run.eval_every 0 --run.dir"
    assert main([*options.split(), str(tmp_path / "run")]) == 0
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["agent"]["gradient"]["form"] = "grpo"
    path.write_text(json.dumps(config), encoding="utf-8")
    capsys.readouterr()
    assert main(["--resume", str(tmp_path / "run")]) != 0
    assert "is an agent of its own: --agent grpo" in capsys.readouterr().err


TRL_GROUPS = json.loads((GOLDEN / "trl_losses.json").read_text(encoding="utf-8"))["groups"]


@pytest.mark.parametrize("group", TRL_GROUPS, ids=lambda group: str(group["advantage"]))
@pytest.mark.parametrize(
    ("name", "mean", "high", "beta"),
    [
        ("dr_grpo", "none", None, 0.04),
        ("grpo", "response", None, 0.04),
        ("bnpo", "batch", None, 0.04),
        ("dapo", "batch", 0.28, 0),
    ],
)
def test_its_loss_equals_trls_whichever_way_tokens_are_averaged(group, name, mean, high, beta):
    """The golden values are of `python -m benchmarks.trl_losses`; k3 is included but for dapo."""
    fields = "log_policy", "log_sampler", "log_reference"
    now, sampler, reference = (torch.tensor([group[name]], dtype=torch.float64) for name in fields)
    mask = torch.tensor([group["mask"]], dtype=torch.bool)
    advantage = torch.tensor([group["advantage"]], dtype=torch.float64)[..., None] * mask
    summed = losses.clipped(now, sampler, advantage, mask, group["clip"], high) + beta * losses.k3(now, reference, mask)
    weight = losses.per_token(torch.full((1, 3), 1 / 3, dtype=torch.float64), mask, mean)
    assert (weight * summed).sum().item() == pytest.approx(group["loss"][name], abs=1e-6)


def test_a_single_step_reads_its_samples_in_the_pass_that_learns_and_nowhere_else(tmp_path, monkeypatch):
    folder = write_model(tmp_path)
    task, results = text_task(tmp_path, 6, 1), []
    for looks_back in (False, True):
        policy = policy_of(folder, task, compute="float32")
        agent = GRPOConfig(responses=3, average=False, optimiser=PLAIN).build(policy=policy)
        arena = DuelArena(task, oracles.make("bt"), 4, feedback="probability")
        duel = arena.play(agent.propose(arena.reset()))
        passes = []
        read = policy.token_logprob
        monkeypatch.setattr(
            policy, "token_logprob", lambda *of, r=read, p=passes: p.append(torch.is_grad_enabled()) or r(*of)
        )
        if looks_back:
            monkeypatch.setattr(type(agent), "_looks_back", True)
        scalars = agent.update(duel)
        assert passes == [False, True] if looks_back else [True]
        results.append((scalars, [parameter.detach().clone() for parameter in policy.parameters()]))
    (ours, new), (before, old) = results
    assert ours == pytest.approx(before, abs=1e-6)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(new, old, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        GRPOConfig(epochs=2),
        GRPOConfig(kl="return"),
        GRPOConfig(sampler_cap=2.0),
        GRPOConfig(optimiser=OptimiserConfig("lbfgs")),
    ],
)
def test_what_outlives_a_step_or_weighs_tokens_first_is_read_before_it(config):
    agent, _ = game(dataclasses.replace(config, average=False), exact=False)
    assert agent._looks_back


@pytest.mark.parametrize("mean", ["none", "response", "batch"])
def test_tokens_are_averaged_over_a_response_or_the_batch_as_it_is_set(tmp_path, mean):
    """Before a step every ratio is 1, so that the loss is minus the weighted sum of advantage times tokens."""
    policy = policy_of(write_model(tmp_path), text_task(tmp_path, 6, 1), compute="float32")
    arena = DuelArena(text_task(tmp_path, 6, 1), oracles.make("bt"), 4, feedback="probability")
    agent = GRPOConfig(tau=0, token_mean=mean, optimiser=PLAIN, average=False).build(policy=policy)
    duel = arena.play(agent.propose(arena.reset()))
    lengths = torch.tensor([[policy.length(y) for y in row] for row in duel.left], dtype=torch.float64)
    assert len(lengths.unique()) > 1
    gain = losses.group_advantage(losses.win_rate(duel.prob, leave_one_out=True), duel.left_weight)
    divisor = {"none": 1, "response": lengths, "batch": lengths.mean()}[mean]
    expected = -(gain * lengths / divisor).mean().item()
    assert agent.update(duel)["loss/policy"] == pytest.approx(expected, abs=1e-5)


def test_means_of_tokens_by_hand():
    mask = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    weight = torch.tensor([[0.5, 0.5], [1, 0]], dtype=torch.float64)
    assert torch.equal(losses.per_token(weight, mask, "none"), weight)
    assert losses.per_token(weight, mask, "response").tolist() == [[0.5 / 3, 0.5], [0.5, 0]]
    assert losses.per_token(weight, mask, "batch").tolist() == [[0.25, 0.25], [0.5, 0]]
    with pytest.raises(ValueError, match=r"must be \[B, K\], \[B, K, T\]"):
        losses.per_token(weight[:1], mask, "batch")
