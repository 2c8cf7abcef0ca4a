"""SPIN: its solved step, where it goes from demonstrations and from own winners, and what it reads of files."""

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from agents.singles.spin import SPINConfig
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from envs.votes.thumbs import Thumb
from preference_duel.types import Completion
from tests.agents.test_single_agents import thumb_arena, thumbs
from tests.matrix_games import COMAL, G3_PAYOFF, G3_START, RESPONSES, START, g3, game, law, play

SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
TASK = finite_task("game", ("x",), RESPONSES, RESPONSES)
LABELS = torch.tensor([0.9, 0.6, 0.2], dtype=torch.float64)


@pytest.mark.parametrize("payoff", [G3_PAYOFF, COMAL])
def test_a_solved_step_is_a_power_of_the_win_rates(payoff):
    agent, arena = g3(SPINConfig(lam=0.5, **SOLVED), payoff)
    play(agent, arena, 1)
    expected = G3_START * (payoff @ G3_START) ** 2
    assert torch.allclose(law(agent.policy), expected / expected.sum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("lam", [0.4, 1.0, 2.0])
def test_a_solved_step_scales_the_distance_to_the_demonstrations_by_1_less_1_over_lam(lam):
    """Of fixed thumbs: demonstrations are mu q / Z, reached in one step at lam 1 and fled from below 1/2."""
    goal = (G3_START * LABELS / (G3_START * LABELS).sum()).log()
    agent = SPINConfig(lam=lam, **SOLVED).build(policy=TabularPolicy(TASK, G3_START, exact=True))
    distance = G3_START.log() - goal
    for _ in range(2):
        agent.update(thumbs(LABELS.tolist()))
        distance, before = law(agent.policy).log() - goal, distance
        left = (distance - distance.mean()) - (1 - 1 / lam) * (before - before.mean())
        assert left.abs().max() < 1e-6


def test_own_winners_lead_away_from_the_nash_policy_however_small_the_step():
    """It stands still, and from next to it the steps spiral out: W^(1/lam) is no zero-sum game's update."""
    nash = torch.tensor([4.0, 3.0, 4.0], dtype=torch.float64).log().log_softmax(0)
    near, distances = torch.tensor([0.02, -0.02, 0.0], dtype=torch.float64), []
    for start, steps in ((nash, 1), (nash + near, 0), (nash + near, 30)):
        agent, arena = game(SPINConfig(lam=5.0, **SOLVED), exact=True)
        for policy in (agent.policy, agent.opponent):
            policy.load_state_dict({"logits": start[None]})
        play(agent, arena, steps)
        distances.append((nash.exp() * (nash - law(agent.policy).log())).sum().item())
    assert distances[0] < 1e-12
    assert distances[2] > 1.2 * distances[1] > 1e-5


def test_a_demonstration_against_one_sample_is_dpo_of_the_two():
    agent = SPINConfig(average=False, refresh_every=9).build(policy=TabularPolicy(TASK, START))
    with torch.no_grad():
        agent.policy.logits += torch.tensor([1.0, 0.0, -1.0])
        agent.opponent.draw = lambda prompts, count, key: ([[Completion("b")]], torch.ones(1, 1, dtype=torch.float64))
        ratio = agent.policy.log_probs(["x"])[0] - START.log()
    scalars = agent.update(FileArena(TASK, [Thumb("x", "a", 1.0)], None).play())
    wanted = losses.dpo(ratio[0] - ratio[1], torch.ones((), dtype=torch.float64), 0.1)
    assert scalars["loss/policy"] == pytest.approx(wanted.item())


def test_the_winners_of_a_file_are_its_demonstrations_and_what_is_disliked_is_none():
    given = [Preference("x", "a", "b", 1.0), Preference("x", "c", "b", 0.0)]
    agent = SPINConfig().build(policy=TabularPolicy(TASK, START))
    before = law(agent.policy)
    play_file(agent, given, 20)
    moved = law(agent.policy) - before
    assert moved[0] > 0 > moved[2]
    agent = SPINConfig().build(policy=TabularPolicy(TASK, START))
    assert play_file(agent, [Thumb("x", "a", 0.0)], 2)["loss/grad_norm"] == 0


def play_file(agent, given, steps):
    arena, scalars = FileArena(TASK, given, None), {}
    for _ in range(steps):
        scalars = agent.update(arena.play())
    return scalars


@pytest.mark.parametrize("exact", [True, False])
def test_it_keeps_the_contract(exact):
    check_agent(*game(SPINConfig(refresh_every=3), exact=exact, prompts=("x", "y")))
    agent = SPINConfig().build(policy=TabularPolicy(TASK, START, exact=exact))
    check_agent(agent, thumb_arena(exact=exact))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="lam must be positive"):
        SPINConfig(lam=0.0)
    with pytest.raises(ValueError, match="responses must be at least 2"):
        SPINConfig(responses=1)
