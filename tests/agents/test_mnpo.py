"""MNPO: its solved step, INPO as the case of one opponent, and the regularised equilibrium."""

import numpy as np
import pytest
import torch

from agents.check import check_agent
from agents.nash.inpo import INPOConfig
from agents.nash.mnpo import MNPOConfig
from agents.optim.optimiser import OptimiserConfig
from envs.games import regularised_nash
from tests.matrix_games import COMAL, START, game, law, play

SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate=0.5, max_grad_norm=None)}


def test_a_solved_step_is_anchored_at_the_past_policies():
    """Weights 3/4 and 1/4 of the last and the one before; at the beginning both are the start."""
    agent, arena = game(MNPOConfig(tau=0.1, eta=2.0, history_weights=(3.0, 1.0), **SOLVED), exact=True)
    past = [START, START]
    for _ in range(3):
        play(agent, arena, 1)
        mean = 0.75 * past[0].log() + 0.25 * past[1].log()
        expected = torch.softmax(0.8 * mean + 0.2 * START.log() + 2.0 * COMAL @ past[0], 0)
        assert torch.allclose(law(agent.policy), expected, rtol=0, atol=1e-9)
        past = [expected, past[0]]


@pytest.mark.parametrize("exact", [True, False])
def test_with_one_opponent_it_is_inpo(exact):
    (agent, arena), (plain, its_arena) = (game(kind(**STEPS), exact=exact) for kind in (one_opponent, INPOConfig))
    for _ in range(4):
        assert play(agent, arena, 1) == pytest.approx(play(plain, its_arena, 1), abs=1e-12)
    assert torch.allclose(law(agent.policy), law(plain.policy), rtol=0, atol=1e-12)


def one_opponent(**fields):
    return MNPOConfig(opponents=1, **fields)


def test_small_errors_move_as_linear_theory_says():
    """e' = (1 - s) (e + e_before) / 2 + s M e, with eigenvalues +-2.0357 i of M: of two opponents, as the page says."""
    share = 0.2
    agent, arena = game(MNPOConfig(tau=0.1, eta=share / 0.1, **SOLVED), exact=True)
    centre = regularised_nash(COMAL, START, 0.1, tol=1e-14).policy.log()
    for policy in (agent.policy, *agent.past):
        policy.load_state_dict({"logits": (centre + torch.tensor([1e-5, 0, -1e-5]))[None]})
    errors = []
    for _ in range(4):
        play(agent, arena, 1)
        logits = law(agent.policy).log() - centre
        errors.append((logits - logits.mean())[:2])
    errors = torch.stack(errors, 1)  # [2, 4]
    turned = errors[:, 2:] - (1 - share) * (errors[:, 1:3] + errors[:, :2]) / 2
    turn = turned @ torch.linalg.inv(errors[:, 1:3]) / share
    assert torch.linalg.eigvals(turn).imag.abs().tolist() == pytest.approx([2.035697] * 2, abs=1e-3)
    for s, roots in ((0.02, [0.981, 0.987, 0.990]), (0.2, [0.898, 0.876, 0.887]), (0.3, [0.929, 0.825, 0.817])):
        rows = [[1, (s - 1) / n - s * 2.035697j, *[(s - 1) / n] * (n - 1)] for n in (1, 2, 3)]
        assert [np.abs(np.roots(row)).max() for row in rows] == pytest.approx(roots, abs=5.1e-4)


@pytest.mark.slow
def test_the_last_iterate_goes_to_the_regularised_equilibrium():
    """By linear theory two opponents scale an error by .8765 a step, INPO's one by .8976."""
    agent, arena = game(MNPOConfig(tau=0.1, eta=2.0, **SOLVED), exact=True)
    play(agent, arena, 120)
    assert torch.allclose(law(agent.policy), regularised_nash(COMAL, START, 0.1).policy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"refresh_every": 2, "opponents": 3}])
def test_it_keeps_its_past(fields):
    check_agent(*game(MNPOConfig(**fields), prompts=("x", "y")))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="history_weights must be 2, one for each opponent, got 1"):
        MNPOConfig(history_weights=(1.0,))
    with pytest.raises(ValueError, match="and not all 0"):
        MNPOConfig(history_weights=(0.0, 0.0))
    with pytest.raises(ValueError, match="a step would overshoot"):
        MNPOConfig(tau=0.5, eta=3.0)
