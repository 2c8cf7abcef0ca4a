"""PELHF: its saddle point, what pessimism keeps and gains, and what a file of duels may be."""

import json

import numpy as np
import pytest
import torch

from agents.check import check_agent
from agents.oelhf import OELHFConfig
from agents.pelhf import PELHFConfig
from agents.policies.tabular import TabularPolicy
from benchmarks import offline
from envs import make_task
from envs.games import NotConvergedError, regularised_nash, regularised_saddle
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from runners.duel import main
from tests.matrix_games import COMAL, RESPONSES, START, game, law, play, require_page


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


@pytest.mark.parametrize("fields", [{"tau": 0}, {"width": -0.1}, {"responses": 1}])
def test_settings_out_of_range_are_told(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        PELHFConfig(**fields)


def test_only_tables_that_draw_are_for_it():
    with pytest.raises(ValueError, match="single duels"):
        PELHFConfig().build(policy=TabularPolicy(make_task("comal3"), exact=True))
