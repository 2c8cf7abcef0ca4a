"""Agents learn nothing from pairs whose answers could not be read, whatever their settings."""

import copy
from dataclasses import replace

import pytest
import torch

import agents
from agents import losses
from agents.check import check_agent
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from agents.sb3.rollout import gains
from envs import DuelArena, make_task
from oracles import make as make_oracle
from tests.agents.test_every_agent import built

SETTINGS = {
    "sppo": [{"leave_one_out": False}, {"pairs": "best_worst"}, {"normaliser": "log_z"}, {"epochs": 2}],
    "spo": [{"gradient": GradientConfig(form=form)} for form in ("ppo", "rebel")]
    + [{"gradient": GradientConfig(form="ppo", baseline="value")}],
    "dpo": [{"pairs": "best_worst"}, {"loss": "robust", "label_smoothing": 0.1}],
    "ipo": [{"length_normalised": True}, {"mixture": 0.5}],
    "nash_md": [{"form": "mirror"}],
    "grpo": [{"schedule": "circular"}, {"aggregate": "bt"}, {"aggregate": "scores", "leave_one_out": False}],
    "psro": [{"response_updates": 1, "payoff_updates": 2}],
    "oelhf": [{"planner": "ipo"}, {"enhancer": "none", "responses": 3}],
}


@pytest.mark.parametrize(
    ("name", "fields"), [(name, fields) for name, several in SETTINGS.items() for fields in several], ids=str
)
def test_a_pair_that_was_not_read_plays_no_part(name, fields):
    task = make_task("symbols", alphabet=2, length=2, prompts=3)
    oracle = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    agent = agents.make(name, policy=TabularPolicy(task), seed=1, **fields)
    check_agent(agent, DuelArena(task, oracle, 3))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (name, fields)
        for name in ("sppo", "spo", "dpo", "ipo", "nash_md", "xpo", "grpo")
        for fields in [{}, *SETTINGS.get(name, [])]
    ],
    ids=str,
)
def test_a_draw_without_a_pair_that_was_read_is_as_if_it_had_not_been_drawn(name, fields):
    if fields.get("schedule") == "circular":
        fields = {**fields, "schedule": "all_pairs"}  # another ring without the draw
    task = make_task("symbols", prompts=3)
    oracle = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    plain = OptimiserConfig("sgd", learning_rate=1.0, momentum=0.0, warmup=0, max_grad_norm=1e9)
    agent = agents.make(name, policy=TabularPolicy(task), seed=1, optimiser=plain, **fields)
    arena = DuelArena(task, oracle, 3, feedback="probability")
    duel = arena.play(agent.propose(arena.reset()))
    duel.prob[0] = 0.5  # where the last draw would be taken for the worst
    lost, rest = torch.zeros_like(duel.asked), [0, 1, 2]
    lost[:, 3] = lost[:, :, 3] = True
    left = [[row[k] for k in rest] for row in duel.left]
    right = left if duel.self_play else [[row[k] for k in rest] for row in duel.right]
    third = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    tables = [one[:, rest][:, :, rest] for one in (duel.prob, duel.asked)]
    learned = []
    for one in (
        duel.without(lost & duel.asked),
        replace(duel, left=left, right=right, prob=tables[0], asked=tables[1], left_weight=third, right_weight=third),
    ):
        twin = copy.deepcopy(agent)
        for _ in range(3):  # a value function is learned from, too
            twin.update(one)
        learned.append(twin.policy.logits.detach())
    assert not torch.equal(learned[0], agent.policy.logits)
    torch.testing.assert_close(*learned, atol=1e-5, rtol=0)


def test_a_projection_onto_scores_refuses_a_duel_with_holes():
    task = make_task("symbols", alphabet=2, length=2, prompts=3)
    oracle = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    agent = agents.make("sppo", policy=TabularPolicy(task), bradley_terry_projection=True)
    arena = DuelArena(task, oracle, 3, feedback="probability")
    duel = arena.play(agent.propose(arena.reset()))
    taken = torch.zeros_like(duel.asked)
    taken[0, 0, 1] = taken[0, 1, 0] = True
    with pytest.raises(ValueError, match="averages over all pairs, and some are unread"):
        agent.update(duel.without(taken))


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_a_row_that_is_left_out_takes_its_tokens_along(name):
    agent, arena = built(name)
    duel = arena.play(agent.propose(arena.reset()))
    rest = duel.without(torch.tensor([True, False])[:, None, None])
    whole, part = agent._play.transitions(), agent._play.transitions(rest.rows)
    assert (part.boards == whole.boards[whole.rows == 1]).all()
    assert (gains(rest)[part.rows] == gains(duel)[whole.rows[whole.rows == 1]]).all()


PROB = torch.tensor([[[0.5, 1.0, 0.0], [0.0, 0.5, 0.25], [1.0, 0.75, 0.5]]], dtype=torch.float64)
KNOWN = torch.tensor([[[True, True, False], [True, True, True], [False, True, True]]])


def test_win_rates_of_known_pairs_by_hand():
    rates = losses.win_rate(PROB, leave_one_out=True, known=KNOWN)
    assert rates[0].tolist() == [1.0, 0.125, 0.75]
    assert losses.win_rate(PROB, known=KNOWN)[0].tolist() == pytest.approx([1.5 / 2, 0.75 / 3, 1.25 / 2])
    weight = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    assert losses.win_rate(PROB, weight, True, KNOWN)[0].tolist() == pytest.approx([1.0, 0.0625 / 0.75, 0.75])
    none = KNOWN & (torch.arange(3) != 2)[:, None] & (torch.arange(3) != 2)
    assert losses.win_rate(PROB, leave_one_out=True, known=none)[0].tolist() == [1.0, 0.0, 0.5]
    everything = torch.ones_like(KNOWN)
    assert torch.equal(losses.win_rate(PROB, known=everything), losses.win_rate(PROB))
    assert torch.equal(losses.win_rate(PROB, None, True, everything), losses.win_rate(PROB, leave_one_out=True))


def test_advantages_of_draws_with_a_reward_by_hand():
    reward, counted = torch.tensor([[4.0, 9.0, 1.0], [3.0, 9.0, 9.0]]), torch.tensor([[1, 0, 1], [1, 0, 0]]).bool()
    assert losses.advantage(reward, counted=counted).tolist() == [[3.0, 0.0, -3.0], [3.0, 0.0, 0.0]]
    assert torch.equal(losses.advantage(reward, counted=torch.ones_like(counted)), losses.advantage(reward))
    weight = torch.tensor([[0.5, 0.0, 0.5]])
    group = losses.group_advantage(reward[:1], weight, scale=False, leave_one_out=True)
    assert group[0, [0, 2]].tolist() == [3.0, -3.0]
    alone = losses.group_advantage(reward[:1, [0, 2]], torch.tensor([[0.5, 0.5]]))
    assert torch.equal(losses.group_advantage(reward[:1], weight)[:, [0, 2]], alone)


def test_best_and_worst_are_chosen_among_those_that_count():
    rates = torch.tensor([[0.9, 0.5, 0.5, 0.1]])
    assert losses.best_and_worst(rates, torch.tensor([[False, True, True, False]])).tolist() == [[1, 2]]
    assert losses.best_and_worst(rates, torch.ones(1, 4).bool()).tolist() == losses.best_and_worst(rates).tolist()


def test_dpo_takes_the_widest_pair_that_was_read_if_best_against_worst_was_not():
    from agents.pairs.pair_agent import _best_against_worst

    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    oracle = make_oracle("bt", prompts=task.all_prompts, responses=task.response_texts)
    arena = DuelArena(task, oracle, 1, feedback="probability")
    agent = agents.make("dpo", policy=TabularPolicy(task), seed=3, responses=3)
    duel = arena.play(agent.propose(arena.reset()))
    prob = torch.tensor([[[0.5, 0.6, 0.9], [0.4, 0.5, 0.8], [0.1, 0.2, 0.5]]], dtype=torch.float64)
    whole = replace(duel, prob=prob)
    assert _best_against_worst(whole).asked[0].nonzero().tolist() == [[0, 2]]
    taken = torch.zeros_like(duel.asked)
    taken[0, 0, 2] = taken[0, 2, 0] = True
    # without it: .6 for the first, (.4 + .8) / 2, and .2
    assert _best_against_worst(whole.without(taken)).asked[0].nonzero().tolist() == [[1, 2]]
