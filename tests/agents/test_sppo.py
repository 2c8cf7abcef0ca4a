import dataclasses
import math

import pytest
import torch

import agents
from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from agents.sppo import SPPO, SPPOConfig
from envs.arena import DuelArena
from envs.games import kl_divergence
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion, Duel
from tests.paths import DOCS

COMAL = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
ROCK = [[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]]
START = [0.2, 0.5, 0.3]
RESPONSES = ["a", "b", "c"]
SOLVED = {"eta": 0.1, "method": "lbfgs"}


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def settings(**fields) -> SPPOConfig:
    """Sorts the optimiser's fields out."""
    optimiser = OptimiserConfig(**{name: fields.pop(name) for name in vars(OptimiserConfig()) if name in fields})
    return SPPOConfig(optimiser=optimiser, **fields)


def game(payoff, exact: bool, seed: int = 0, prompts=("x",), **fields) -> tuple[SPPO, DuelArena]:
    task = finite_task("game", prompts, RESPONSES, RESPONSES)
    policy = TabularPolicy(task, probs=double(START), exact=exact)
    oracle = TableOracle(double(payoff), prompts, RESPONSES)
    arena = DuelArena(task, oracle, None, feedback="probability" if exact else "outcome", seed=seed)
    return settings(**fields).build(policy=policy, seed=seed), arena


def test_the_logged_learning_rate_is_the_step_over_the_gradient():
    agent, arena = game(COMAL, exact=True, method="sgd", learning_rate=1.0, warmup=4, max_grad_norm=None)
    for rate in (0.25, 0.5, 0.75, 1.0, 1.0):
        (logits,) = agent.policy.parameters()
        before = logits.detach().clone()
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
        assert scalars["loss/learning_rate"] == rate
        assert (logits - before).norm().item() == pytest.approx(rate * scalars["loss/grad_norm"])


def play(agent: SPPO, arena: DuelArena, steps: int) -> dict[str, float]:
    scalars = {}
    for _ in range(steps):
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
    return scalars


def law(policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.log_probs(["x"])[0].exp()


@pytest.mark.parametrize(
    "fields",
    [
        {"exact": True, "method": "lbfgs"},
        {"exact": False},
        {"exact": False, "method": "adamw", "momentum": 0.9, "refresh_every": 2, "warmup": 3},
        {"exact": False, "method": "sgd", "momentum": 0.5, "epochs": 2, "normaliser": "log_z"},
        {"exact": False, "pairs": "best_worst", "leave_one_out": False, "average": False, "log_kl": False},
        {"exact": True, "bradley_terry_projection": True},
    ],
)
def test_sppo_keeps_the_contract_of_an_agent(fields):
    agent, arena = game(COMAL, prompts=("x", "y"), **fields)
    check_agent(agent, arena)


def test_make_builds_it_by_name():
    task = finite_task("game", ["x"], RESPONSES, RESPONSES)
    agent = agents.make("sppo", policy=TabularPolicy(task), eta=0.5)
    assert isinstance(agent, SPPO)
    assert agent.config.eta == 0.5


def test_draws_come_from_the_frozen_policy_and_differ_by_step():
    agent, arena = game(COMAL, exact=False, refresh_every=3, responses=16)
    proposals = []
    for _ in range(2):
        proposals.append(agent.propose(arena.reset()))
        agent.update(arena.play(proposals[-1]))
    assert proposals[0].right is None
    assert proposals[0].left != proposals[1].left
    assert torch.allclose(law(agent.opponent), double(START))
    play(agent, arena, 1)
    assert torch.equal(law(agent.opponent), law(agent.policy))


def test_the_average_counts_every_played_policy_once():
    agent, arena = game(COMAL, exact=True, refresh_every=2, **SOLVED)
    played = []
    for _ in range(3):
        played.append(law(agent.opponent))
        play(agent, arena, 2)
    assert agent.average is not None
    assert torch.allclose(law(agent.average), torch.stack(played).mean(0))


def test_an_exact_duel_keeps_the_tie_with_itself():
    """Where the whole law is listed the diagonal has its own weight; leaving it out would be another game."""
    kept, left = (game(COMAL, exact=True, leave_one_out=flag, **SOLVED) for flag in (False, True))
    play(*kept, 1)
    play(*left, 1)
    assert torch.equal(law(kept[0].policy), law(left[0].policy))


def test_the_papers_mean_takes_smaller_steps_on_samples():
    """By (K - 1)/K: with one optimiser step from pi_t the gradient scales with the advantage."""
    moves = []
    for flag in (True, False):
        agent, arena = game(
            COMAL, exact=False, leave_one_out=flag, method="sgd", learning_rate=0.01, max_grad_norm=None
        )
        before = agent.policy.logits.detach().clone()
        play(agent, arena, 1)
        moves.append(agent.policy.logits.detach() - before)
    assert torch.allclose(moves[1], 3 / 4 * moves[0])
    assert moves[0].abs().max() > 0


def test_best_and_worst_alone_are_learned_from():
    agent, arena = game(
        COMAL, exact=False, pairs="best_worst", method="sgd", learning_rate=1.0, max_grad_norm=None, warmup=0
    )
    arena.reset()
    rows = [[Completion(text) for text in RESPONSES]]
    prob = double([[[0.5, 0.9, 0.9], [0.1, 0.5, 0.6], [0.1, 0.4, 0.5]]])
    weight = torch.full((1, 3), 1 / 3).double()
    duel = Duel(["x"], rows, rows, prob, weight, weight, prob > 0, "probability", 1)
    agent.update(duel)
    advantage = 0.5 * (0.9 - 0.5), 0.5 * (0.25 - 0.5)
    pull = 2 * double([advantage[0], 0, advantage[1]])
    expected = double(START).log() + pull - double(START) * pull.sum()
    assert torch.allclose(agent.policy.logits[0], expected)


def test_learning_in_parts_changes_no_gradient():
    whole, parts = (game(COMAL, exact=False, prompts=tuple("xyz"), normaliser="log_z") for _ in range(2))
    parts[0].policy.parts = lambda prompts, responses: [[b] for b in reversed(range(len(prompts)))]
    assert play(*whole, 3) == pytest.approx(play(*parts, 3))
    assert torch.allclose(whole[0].policy.logits, parts[0].policy.logits, atol=1e-12)


def test_scalars_are_what_the_documentation_says():
    agent, arena = game(COMAL, exact=True, eta=0.5, method="lbfgs")
    play(agent, arena, 3)
    played, payoff = law(agent.opponent), double(COMAL)
    scalars = play(agent, arena, 1)
    advantage = payoff @ played - 0.5
    assert scalars["loss/policy"] == pytest.approx((played @ (0.5 * advantage) ** 2).item())
    assert scalars["policy/kl"] == pytest.approx(kl_divergence(played, double(START)).item())
    assert scalars["policy/entropy"] == pytest.approx(-(played @ played.log()).item())
    assert scalars["duel/win_rate_std"] == pytest.approx((played @ advantage**2).sqrt().item())
    assert scalars["duel/win_rate_max"] == pytest.approx(0.5 + advantage.max().item())
    page = (DOCS / "agents/sppo.md").read_text(encoding="utf-8")
    assert all(f"`{tag}`" in page for tag in scalars)
    assert all(f"`{field.name}`" in page for field in dataclasses.fields(SPPOConfig))


def test_the_projection_makes_a_cycle_look_like_a_draw():
    agent, arena = game(ROCK, exact=True, bradley_terry_projection=True, **SOLVED)
    task = arena.task
    agent = settings(bradley_terry_projection=True, **SOLVED).build(policy=TabularPolicy(task, exact=True), seed=0)
    assert play(agent, arena, 1)["duel/win_rate_std"] == pytest.approx(0, abs=1e-12)


def test_the_projection_refuses_bare_outcomes():
    agent, arena = game(COMAL, exact=False, bradley_terry_projection=True)
    with pytest.raises(ValueError, match="feedback='probability'"):
        play(agent, arena, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eta": 0.0}, "eta must be positive, got 0.0"),
        ({"responses": 1}, "responses must be at least 2, got 1"),
        ({"pairs": "best"}, "pairs must be one of"),
        ({"normaliser": "third"}, "normaliser must be one of"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"method": "lbfgs", "learning_rate": 0.5}, "'lbfgs' makes no use of learning_rate, got 0.5"),
        ({"method": "lbfgs", "epochs": 3}, "leave epochs out, got 3"),
    ],
)
def test_settings_that_are_wrong_or_ignored_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        settings(**fields)


def test_a_response_that_the_policy_cannot_draw_is_named_before_it_spoils_the_weights():
    agent, arena = game(COMAL, exact=False, responses=8)
    agent.policy.logits.data[0, 1] = -math.inf
    with pytest.raises(ValueError, match="probability 0 to a response that is learned from"):
        play(agent, arena, 1)
    assert agent.policy.logits.isfinite().sum() == 2


def test_a_frozen_policy_cannot_be_trained():
    task = finite_task("game", ["x"], RESPONSES, RESPONSES)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        SPPOConfig().build(policy=TabularPolicy(task).frozen())


def test_a_state_of_another_policy_or_setting_is_refused():
    agent, _ = game(COMAL, exact=False)
    other, _ = game(COMAL, exact=False, prompts=("x", "y"))
    with pytest.raises(ValueError, match=r"another policy: 1 tensors .*logits"):
        agent.load_state_dict(other.state_dict())
    without, _ = game(COMAL, exact=False, average=False)
    with pytest.raises(ValueError, match="settings of the run that saved it"):
        agent.load_state_dict(without.state_dict())
