"""PELHF: its saddle point, what pessimism keeps and gains, and what a file of duels may be."""

import json

import numpy as np
import pytest
import torch

from agents.check import check_agent
from agents.ipo import IPO, IPOConfig
from agents.oelhf import OELHFConfig
from agents.optim.optimiser import OptimiserConfig
from agents.pelhf import PELHFConfig, TextPELHF
from agents.policies.tabular import TabularPolicy
from agents.preference_models.planners import play_for_two
from agents.preference_models.uncertainty import LinearUncertainty
from benchmarks import offline
from envs import make_task
from envs.arena import DuelArena
from envs.games import NotConvergedError, regularised_nash, regularised_saddle
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from runners.duel import main
from tests.matrix_games import COMAL, RESPONSES, START, game, law, play, require_page
from tests.tiny_models import policy_of, write_model

UNEVEN = torch.tensor([[0.2, 0.3, 0.2], [0.1, 0.1, 0.7], [0.3, 0.6, 0.5]], dtype=torch.float64)
"""A payoff of which the seats play different policies."""


def test_the_saddle_point_of_a_preference_game_is_its_nash_policy():
    for tau in (0.5, 0.05):
        found, nash = regularised_saddle(COMAL, START, tau), regularised_nash(COMAL, START, tau)
        distance = (found.policy - nash.policy).abs().sum()
        assert distance <= found.certificate + nash.certificate
        assert found.certificate <= 1e-6


def test_a_saddle_point_is_its_own_best_answer_on_both_sides():
    drawn = torch.rand(4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ref = torch.full((6,), 1 / 6, dtype=torch.float64)
    row = regularised_saddle(drawn, ref, 0.2).policy
    column = regularised_saddle(-drawn.mT, ref, 0.2).policy
    answer = torch.softmax((drawn @ column[..., None])[..., 0] / 0.2, -1)
    torch.testing.assert_close(row, answer, atol=1e-6, rtol=0)


def test_a_saddle_point_by_hand_where_the_other_seat_has_no_say():
    gain = torch.tensor([0.3, 0.1], dtype=torch.float64)
    found = regularised_saddle(gain[:, None].expand(2, 2), torch.tensor([0.5, 0.5]), 0.1).policy
    assert found[0] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-7)


def test_what_is_no_game_or_cannot_be_reached_is_told():
    ref = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="finite and square"):
        regularised_saddle(torch.ones(2, 3), ref, 0.1)
    with pytest.raises(ValueError, match="finite and square"):
        regularised_saddle(torch.full((2, 2), torch.nan), ref, 0.1)
    with pytest.raises(ValueError, match="tau must be"):
        regularised_saddle(torch.ones(2, 2), ref, 0.0)
    with pytest.raises(NotConvergedError, match="after 20 iterations"):
        regularised_saddle(COMAL, START, 1e-3, max_iterations=20)


def test_lower_confidence_payoffs_are_half_wins_less_doubt_and_even_with_oneself():
    agent, _ = game(PELHFConfig(width=0.3))
    pair = [Preference("x", "a", "b", 1.0)] * 3
    agent.update(FileArena(finite_task("game", ("x",), RESPONSES, RESPONSES), pair, None).play())
    lower = agent.lower(["x"])[0]
    assert lower.diagonal().tolist() == [0.5] * 3
    assert lower[0, 1] == pytest.approx(3.5 / 4 - 0.3 / 2)
    assert lower[1, 0] == 0  # 0.5 / 4 - 0.3 / 2 is below 0
    assert lower[0, 2] == pytest.approx(0.5 - 0.3)


def test_without_doubt_it_plans_as_oelhf_does():
    plain, arena = game(PELHFConfig(width=0.0, responses=4))
    duel = arena.play(plain.propose(arena.reset()))
    online, _ = game(OELHFConfig())
    plain.update(duel)
    online.update(duel)
    torch.testing.assert_close(law(plain.policy), law(online.policy), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_where_every_pair_is_known_it_plays_the_equilibrium():
    agent, arena = game(PELHFConfig(responses=64))
    play(agent, arena, 200)
    torch.testing.assert_close(law(agent.policy), regularised_nash(COMAL, START, 0.1).policy, atol=0.03, rtol=0)


@pytest.mark.slow
def test_pessimism_beats_plain_planning_and_its_teacher_where_duels_are_few():
    width = PELHFConfig().width
    gaps = np.array([offline.measure("competent", 500, seed, [width]) for seed in range(30)])
    behaviour, plain, pessimistic = gaps.T
    assert offline.interval(plain - pessimistic)[0] > 0
    assert offline.interval(behaviour - pessimistic)[0] > 0


def test_the_contract_and_the_page():
    check_agent(*game(PELHFConfig()))
    require_page("pelhf", PELHFConfig())


def write(path, count):
    lines = [{"prompt": "x", "chosen": RESPONSES[i % 3], "rejected": RESPONSES[(i + 1) % 3]} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def command(tmp_path, data, *more):
    content = {"prompts": ["x"], "responses": RESPONSES, "prob": COMAL.tolist()}
    (tmp_path / "game.json").write_text(json.dumps(content), encoding="utf-8")
    fixed = ["--agent", "pelhf", "--task", str(tmp_path / "game.json"), "--policy", "tabular", "--run.data", data]
    return main([*fixed, "--run.dir", str(tmp_path / "run"), *more])


def test_a_file_is_counted_once(tmp_path, capsys):
    data = write(tmp_path / "duels.jsonl", 30)
    assert command(tmp_path, data, "--run.steps", "4", "--run.batch_size", "8") == 1
    assert "counts each comparison once" in capsys.readouterr().err
    assert command(tmp_path, data, "--run.steps", "3", "--run.batch_size", "8") == 0


@pytest.mark.parametrize("fields", [{"tau": 0}, {"width": -0.1}, {"responses": 1}, {"ridge": 0}, {"inner_steps": 0}])
def test_settings_out_of_range_are_told(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        PELHFConfig(**fields)


def test_two_learners_move_to_the_saddle_point():
    task = finite_task("game", ("x",), RESPONSES, RESPONSES)
    config = IPOConfig(0.05, 16, average=False, optimiser=OptimiserConfig(learning_rate=0.05, decay=50.0))
    first, second = (IPO(config, TabularPolicy(task, START), seed) for seed in (0, 1))

    def payoff(prompts, left, right):
        rows, columns = ([RESPONSES.index(y.text) for y in seat[0]] for seat in (left, right))
        return UNEVEN[rows][:, columns][None]

    play_for_two(first, second, payoff, ["x"], 120)
    best, answer = (regularised_saddle(own, START, 0.1).policy for own in (UNEVEN, -UNEVEN.mT))
    assert (law(first.policy) - best).abs().sum() < 0.15
    assert (law(second.policy) - answer).abs().sum() < 0.15
    assert (best - answer).abs().sum() > 0.8


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small random language model that answers one prompt by one of three letters, and its task."""
    task = finite_task("game", ("ab",), RESPONSES, RESPONSES)
    return policy_of(write_model(tmp_path_factory.mktemp("text") / "model"), task), task


def test_doubt_is_the_length_of_a_pairs_features_as_the_duels_have_seen_them(text):
    policy, task = text
    doubt = LinearUncertainty(policy, ridge=0.5, per=1)
    listed = [list(task.responses)]
    features = doubt.features(["ab"], listed)[0]
    gap = features[0] - features[1]
    assert doubt.of(["ab"], listed, listed)[0, 0, 1] == pytest.approx((gap @ gap / 0.5).sqrt().item())
    doubt.add(FileArena(task, [Preference("ab", "a", "b", 1.0)] * 5, None).play())
    found = doubt.of(["ab"], listed, listed)[0]
    assert found[0, 1] == pytest.approx((gap @ gap / (0.5 + 5 * gap @ gap)).sqrt().item())
    assert found.diagonal().tolist() == [0.0] * 3
    torch.testing.assert_close(found, found.mT)


@pytest.mark.slow
def test_a_language_model_keeps_the_contract_and_comes_to_the_saddle_point_of_a_files_lower_payoffs(text):
    policy, task = text
    slower = OptimiserConfig(learning_rate=3e-3)
    agent = PELHFConfig(width=0.3, responses=8, optimiser=slower).build(policy=policy)
    assert isinstance(agent, TextPELHF)
    check_agent(agent, DuelArena(task, TableOracle(COMAL, ("ab",), RESPONSES), None, "outcome"))
    wins = np.random.default_rng(0).random(64)
    pairs = [(0, 1)] * 40 + [(1, 2)] * 20 + [(2, 0)] * 4
    file = [
        Preference("ab", RESPONSES[a], RESPONSES[b], float(u < COMAL[a, b]))
        for (a, b), u in zip(pairs, wins, strict=True)
    ]
    play(agent, FileArena(task, file, 8), 8)
    play_for_two(agent.main, agent.adversary, agent.lower, ["ab"], 50)
    listed = [list(task.responses)]
    lower, start = agent.lower(["ab"], listed, listed)[0], agent.reference.distribution(["ab"], task.responses)[0]
    saddle = regularised_saddle(lower, start / start.sum(), 0.1).policy
    assert (policy.distribution(["ab"], task.responses)[0] - saddle).abs().sum() < 0.2
    assert (start - saddle).abs().sum() > 0.6
    assert (lower + lower.mT).min() < 0.9


def test_only_tables_that_draw_are_for_it():
    with pytest.raises(ValueError, match="single duels"):
        PELHFConfig().build(policy=TabularPolicy(make_task("comal3"), exact=True))
