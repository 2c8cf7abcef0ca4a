"""DPO: where it ends on Bradley-Terry preferences, what it misses on cycles, its variants, the contract of an agent."""

import dataclasses

import pytest
import torch

from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.beta_dpo import BetaDPOConfig
from agents.pairs.dpo import DPOConfig
from envs.games import bradley_terry_fit, regularised_exploitability
from oracles.table import TableOracle
from preference_duel.types import Completion, Duel
from tests.matrix_games import COMAL, RANKED, RESPONSES, REWARD, START, g3, game, law, play

SOLVED = OptimiserConfig("lbfgs")


@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("robust", 0.0)])
def test_on_a_ranking_it_ends_at_the_optimum_of_the_reward(tau, loss, smoothing):
    config = DPOConfig(tau=tau, loss=loss, label_smoothing=smoothing, average=False, optimiser=SOLVED)
    agent, arena = game(config, RANKED, exact=True)
    play(agent, arena, 2)
    assert torch.allclose(law(agent.policy), torch.softmax(START.log() + REWARD / tau, 0), atol=1e-6)


def test_on_a_cycle_it_ends_at_the_bradley_terry_fit_and_not_at_the_equilibrium():
    config = DPOConfig(tau=0.5, average=False, refresh_every=10**6, optimiser=SOLVED)
    agent, arena = game(config, exact=True)
    play(agent, arena, 2)
    fitted = torch.softmax(START.log() + bradley_terry_fit(COMAL, START) / 0.5, 0)
    assert torch.allclose(law(agent.policy), fitted, atol=1e-6)
    assert regularised_exploitability(COMAL, fitted, START, 0.5) > 0.05


ROBUST = {"loss": "robust", "label_smoothing": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, ROBUST, {"refresh_every": 50}])
def test_outcomes_lead_where_probabilities_do(fields):
    optimiser = OptimiserConfig(learning_rate=0.03, decay=200.0)
    agent, arena = game(DPOConfig(tau=0.5, average=False, optimiser=optimiser, **fields), RANKED)
    flipped = fields.get("label_smoothing", 0.0)
    arena.oracle = TableOracle((1 - 2 * flipped) * RANKED + flipped, ["x"], RESPONSES)
    play(agent, arena, 1500)
    goal = torch.softmax(START.log() + REWARD / 0.5, 0)
    assert (law(agent.policy) - goal).abs().sum() < 0.2 * (START - goal).abs().sum()


def test_stages_with_a_renewed_reference_are_one_at_a_smaller_tau():
    """Two solved stages of sDPO at tau .5 are DPO at .25."""
    config = DPOConfig(tau=0.5, renew_reference_every=1, average=False, optimiser=SOLVED)
    agent, arena = g3(config)
    play(agent, arena, 2)
    assert law(agent.policy).tolist() == pytest.approx([0.027237, 0.892260, 0.080503], abs=1e-5)
    assert law(agent.reference).tolist() == law(agent.policy).tolist()


def test_entropy_is_that_of_the_copy_that_drew():
    config = DPOConfig(tau=0.5, average=False, refresh_every=3, optimiser=OptimiserConfig("sgd", learning_rate=1.0))
    agent, arena = game(config, RANKED, exact=True)
    drew = -(START * START.log()).sum().item()
    for _ in range(3):
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
        assert scalars["policy/entropy"] == pytest.approx(drew)
        assert scalars["policy/kl"] == pytest.approx(0, abs=1e-9)


def test_a_duel_of_a_file_has_a_winner_and_a_loser():
    agent, _ = game(DPOConfig(average=False, optimiser=OptimiserConfig("sgd", learning_rate=5.0)))
    one = torch.ones(1, 1, dtype=torch.float64)
    left, right = [[Completion("b")]], [[Completion("a")]]
    duel = Duel(["x"], left, right, one[..., None], one, one, one[..., None] > 0, "outcome", 1)
    before = law(agent.policy)
    for _ in range(20):
        scalars = agent.update(duel)
        assert not any(tag.startswith("policy/") for tag in scalars), "the responses are not the policy's"
    after = law(agent.policy)
    assert after[1] > before[1]
    assert after[0] < before[0]


def test_the_best_meets_the_worst():
    agent, arena = game(DPOConfig(pairs="best_worst", average=False))
    assert play(agent, arena, 3)["loss/policy"] > 0
    exact, arena = game(DPOConfig(pairs="best_worst"), exact=True)
    with pytest.raises(ValueError, match="without exact"):
        play(exact, arena, 1)


@pytest.mark.parametrize("kind", [DPOConfig, BetaDPOConfig])
def test_where_all_samples_tie_no_step_is_taken(kind):
    """Moments of earlier steps move nothing either; samples and averages go on."""
    agent, arena = game(kind(pairs="best_worst"), RANKED, prompts=("x", "y"))
    arena.feedback = "probability"
    play(agent, arena, 3)
    before, arena.oracle = law(agent.policy), TableOracle(torch.full((3, 3), 0.5), ["x", "y"], RESPONSES)
    drawn = [[y.text for y in row] for row in agent.propose(["x"] * 20).left]
    assert play(agent, arena, 1) == {}
    assert torch.equal(law(agent.policy), before)
    assert agent.learner.updates == 4
    assert [[y.text for y in row] for row in agent.propose(["x"] * 20).left] != drawn


def test_a_prompt_whose_samples_tie_is_left_out():
    """The table of x is not moved, and that of y as if x had not been asked."""
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None, warmup=0)
    config = DPOConfig(pairs="best_worst", average=False, optimiser=optimiser)
    payoff = torch.stack([torch.full((3, 3), 0.5, dtype=torch.float64), RANKED])
    agent, arena = game(config, prompts=("x", "y"), seed=1)
    arena.oracle, arena.feedback = TableOracle(payoff, ["x", "y"], RESPONSES), "probability"
    duel = arena.play(agent.propose(arena.reset()))
    twin, _ = game(config, prompts=("x", "y"), seed=1)
    left = [duel.left[1]]
    rows = {name: getattr(duel, name)[1:] for name in ("prob", "left_weight", "right_weight", "asked")}
    twin.update(dataclasses.replace(duel, prompts=["y"], left=left, right=left, **rows))
    agent.update(duel)
    assert torch.equal(agent.policy.logits, twin.policy.logits)
    assert torch.equal(law(agent.policy), law(game(config, prompts=("x", "y"))[0].policy))
    assert (agent.policy.logits[1] - START.log()).abs().max() > 1e-3


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"loss": "exo", "label_smoothing": 0.1, "refresh_every": 3},
        {"loss": "hinge", "average": False},
        {"renew_reference_every": 2},
    ],
)
def test_it_keeps_the_contract_of_an_agent(fields, exact):
    check_agent(*game(DPOConfig(**fields), exact=exact, prompts=("x", "y")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.0}, "tau must be positive"),
        ({"loss": "ipo"}, "loss must be one of"),
        ({"pairs": "some"}, "pairs must be one of"),
        ({"label_smoothing": 0.5}, "label_smoothing must lie in"),
        ({"loss": "exo"}, "needs label_smoothing > 0"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "makes no use of label_smoothing"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"renew_reference_every": 0}, "renew_reference_every must be at least 1, or None"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DPOConfig(**fields)
