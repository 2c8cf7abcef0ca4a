"""OELHF: its counts, its enhancers against their definitions, how fast it learns, and the contract of an agent."""

import dataclasses

import numpy as np
import pytest
import torch

import oracles
from agents import make_policy
from agents.check import check_agent
from agents.ipo import IPOConfig
from agents.oelhf import OELHF, OELHFConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.preference_models.enhancers import Tournament
from agents.preference_models.factory import ModelConfig
from agents.preference_models.metrics import foresight, most_likely_scale
from agents.preference_models.network import NetworkModel
from agents.preference_models.uncertainty import LinearUncertainty
from benchmarks.exploration import gaps, measure, slope
from envs import make_task
from envs.arena import DuelArena
from envs.games import regularised_nash
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion, Duel
from tests.paths import DOCS

COMAL = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], dtype=torch.float64)
START = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
RESPONSES = ["a", "b", "c"]
QUIET = IPOConfig(average=False)


def task(prompts=("x",)):
    return finite_task("game", prompts, RESPONSES, RESPONSES)


def game(config, prompts=("x",), seed=0):
    arena = DuelArena(task(prompts), TableOracle(COMAL, prompts, RESPONSES), None, "outcome", seed=seed)
    return OELHF(config, TabularPolicy(task(prompts), START), seed), arena


def play(agent, arena, steps):
    for _ in range(steps):
        agent.update(arena.play(agent.propose(arena.reset())))


def law(policy):
    with torch.no_grad():
        return policy.log_probs(["x"])[0].exp()


def duel_of(prob, left, right, votes=1):
    """A duel of one prompt, every pair asked."""
    prob = torch.tensor([prob], dtype=torch.float64)
    weights = [torch.full((1, len(row)), 1 / len(row), dtype=torch.float64) for row in (left, right)]
    seats = [[[Completion(text) for text in row]] for row in (left, right)]
    return Duel(["x"], *seats, prob, *weights, torch.ones_like(prob, dtype=torch.bool), "outcome", votes)


def test_the_model_is_the_share_of_wins():
    model = DuelCounts(TabularPolicy(task()).cells)
    for outcome in (1.0, 1.0, 0.0):
        model.add(duel_of([[outcome]], ["a"], ["b"]))
    model.add(duel_of([[0.75]], ["b"], ["a"], votes=4))
    found = model.matrix(["x"])[0]
    assert found[0, 1].item() == pytest.approx((2 + 1 + 0.5) / (3 + 4 + 1))
    assert torch.allclose(found + found.T, torch.ones(3, 3, dtype=torch.float64))
    assert model.counts("x")[0, 1].item() == 7
    assert found[0, 2].item() == 0.5


def test_foresight_by_hand():
    found = foresight(torch.tensor([0.8, 0.6, 0.3, 0.5]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.5]).mean())
    assert found["accuracy"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found["overconfidence"] == pytest.approx((0.8 + 0.6 + 0.7 + 0.5) / 4 - 2.5 / 4, abs=1e-6)


def test_the_most_likely_scale_by_hand():
    logits = torch.tensor([2.0, -2.0, 2.0, 2.0], dtype=torch.float64)
    assert most_likely_scale(logits, torch.tensor([1.0, 0.0, 1.0, 0.0])) == pytest.approx(np.log(3) / 2)
    assert most_likely_scale(logits, torch.tensor([1.0, 0.0, 1.0, 1.0])) == 1  # it gives no confidence
    assert most_likely_scale(logits, torch.tensor([0.0, 1.0, 0.0, 0.0])) == pytest.approx(0, abs=1e-9)
    assert most_likely_scale(logits[:0], logits[:0]) == 1


def test_a_networks_scale_is_that_of_its_newest_predictions_from_before_they_were_learned(chat):
    policy, prompts = chat
    model = NetworkModel(policy, ModelConfig(steps=1, batch_size=2, calibration=3), seed=0)
    torch.nn.init.normal_(model.network.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    duel = duel_of([[0.5, 0.5], [0.5, 0.5]], ["Warm it.", "Wait."], ["Stir it twice.", "Mix."])
    raw = model.prob(prompts[:1], duel.left, duel.right).logit()
    verdicts = (0.3 * raw).sigmoid()  # shares of votes under which 0.3 is the most likely scale
    verdicts[0, 0, 0] = 1 - verdicts[0, 0, 0]  # of the fourth newest, which is forgotten
    model.add(dataclasses.replace(duel, prompts=prompts[:1], prob=verdicts))
    read = model.prob(prompts[:1], duel.left, duel.right)
    other = NetworkModel(policy, ModelConfig(calibration=3), seed=0)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.prob(prompts[:1], duel.left, duel.right), read)
    rewards = model.reward(prompts[:1], duel.left)
    model._scale = 1.0
    unscaled = model.prob(prompts[:1], duel.left, duel.right).logit()
    torch.testing.assert_close(read.logit(), 0.3 * unscaled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rewards, 0.3 * model.reward(prompts[:1], duel.left), rtol=1e-4, atol=1e-5)


def test_self_play_counts_each_pair_once():
    model = DuelCounts(TabularPolicy(task()).cells)
    duel = duel_of([[0.5, 1.0], [0.0, 0.5]], ["a", "b"], ["a", "b"])
    asked = torch.tensor([[[False, True], [True, False]]])
    model.add(dataclasses.replace(duel, right=duel.left, asked=asked))
    assert model.counts("x").sum().item() == 2
    assert model.wins[0, 0, 1].item() == 1


def test_the_main_agent_plays_the_regularised_nash_policy_of_the_model():
    agent, arena = game(OELHFConfig(ipo=QUIET))
    play(agent, arena, 20)
    model = agent.model.matrix(["x"])[0]
    assert torch.allclose(law(agent.policy), regularised_nash(model, START, 0.1).policy, atol=1e-7)


@pytest.mark.parametrize("seed", range(10))
def test_the_optimistic_enhancer_maximises_the_doubt_over_all_laws(seed):
    generator = torch.Generator().manual_seed(seed)
    agent, _ = game(OELHFConfig(responses=2, ridge=0.7, ipo=QUIET))
    counts = torch.randint(6, (3, 3), generator=generator).double()
    agent.model.wins[0] = counts
    agent.policy.logits.data = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    first = law(agent.policy)
    seen = counts + counts.T

    def gamma(second):
        gap = first[:, None] * second[None, :] - first[None, :] * second[:, None]
        return (gap.triu(1).square() / (0.7 + seen / 2)).sum().item()

    chosen = agent.propose(["x"]).right[0][0].text
    best = gamma(torch.eye(3, dtype=torch.float64)[RESPONSES.index(chosen)])
    others = torch.distributions.Dirichlet(torch.full((3,), 0.5, dtype=torch.float64))
    torch.manual_seed(seed)
    assert best >= max(gamma(others.sample()) for _ in range(300)) - 1e-12
    assert best == pytest.approx(max(gamma(row) for row in torch.eye(3, dtype=torch.float64)))


def test_the_enhancer_asks_something_else_once_it_has_asked_enough():
    agent, _ = game(OELHFConfig(responses=60, ridge=0.1, ipo=QUIET))
    chosen = {row.text for row in agent.propose(["x"]).right[0]}
    assert len(chosen) > 1


def test_the_tournament_is_won_by_the_models_favourite():
    agent, _ = game(OELHFConfig(enhancer="tournament", responses=8, candidates=16, ipo=QUIET))
    agent.model.wins[0] = torch.tensor([[0, 50, 50], [0, 0, 50], [0, 0, 0]], dtype=torch.float64)
    assert {y.text for y in agent.propose(["x"]).right[0]} == {"a"}


@pytest.mark.parametrize(
    ("planner", "enhancer"),
    [
        ("exact", "optimistic"),
        *(pytest.param("exact", enhancer, marks=pytest.mark.slow) for enhancer in ("tournament", "none")),
        *(pytest.param("ipo", enhancer, marks=pytest.mark.slow) for enhancer in ("tournament", "optimistic", "none")),
    ],
)
def test_it_learns_the_equilibrium_from_outcomes_alone(planner, enhancer):
    ipo = IPOConfig(average=False, optimiser=OptimiserConfig(learning_rate=0.03, decay=200.0))
    agent, arena = game(OELHFConfig(planner=planner, enhancer=enhancer, responses=8, inner_steps=4, ipo=ipo))
    play(agent, arena, 250)
    nash = regularised_nash(COMAL, START, 0.1).policy
    assert (law(agent.policy) - nash).abs().sum() < 0.12
    assert (START - nash).abs().sum() > 0.4


@pytest.mark.parametrize(
    "config",
    [
        OELHFConfig(),
        OELHFConfig(planner="ipo", enhancer="tournament", ipo=QUIET),
        OELHFConfig(enhancer="none", responses=1),
        OELHFConfig(enhancer="uniform", ipo=QUIET),
    ],
)
def test_it_keeps_the_contract_of_an_agent(config):
    check_agent(*game(config, prompts=("x", "y")))


@pytest.mark.slow
def test_the_regularised_gap_falls_with_the_queries_and_the_enhancer_pays_where_exploring_is_hard():
    for enhancer in ("none", "optimistic"):
        found, low, high = slope("small", measure("small", enhancer, range(20), 2))
        assert -1.25 < found < -0.75, (enhancer, low, high)
    enhancers = ("optimistic", "none", "tournament", "uniform")
    hard = {one: measure("hard", one, range(20), 2, last=32)[:, -1] for one in enhancers}
    for other in ("none", "tournament", "uniform"):
        gain = hard[other] - hard["optimistic"]
        assert gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)), other


def test_a_seed_of_the_benchmark_is_repeatable():
    assert gaps("small", "optimistic", 3, 8) == gaps("small", "optimistic", 3, 8)


def test_its_page_names_every_setting_and_tag():
    agent, arena = game(OELHFConfig(planner="ipo"))
    scalars = agent.update(arena.play(agent.propose(arena.reset())))
    page = (DOCS / "agents" / "oelhf.md").read_text(encoding="utf-8")
    assert all(f"`{tag}`" in page for tag in scalars)
    assert all(f"`{field.name}`" in page for field in dataclasses.fields(OELHFConfig))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"planner": "lp"}, "planner must be one of"),
        ({"enhancer": "greedy"}, "enhancer must be one of"),
        ({"responses": 0}, "responses must be at least 1"),
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"ridge": 0.0}, "ridge must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OELHFConfig(**fields)


@pytest.mark.slow
def test_a_network_learns_a_cycle_that_rewards_can_not(chat):
    """Three answers in a circle: only with a skew product the verdicts surprise less than a coin's."""
    policy, prompts = chat
    circle = [[Completion("Warm it."), Completion("Stir it twice."), Completion("Wait.")]] * len(prompts)
    prob = torch.tensor([[0.5, 0.95, 0.05], [0.05, 0.5, 0.95], [0.95, 0.05, 0.5]], dtype=torch.float64)
    prob = prob.expand(len(prompts), 3, 3)
    weight = torch.full((len(prompts), 3), 1 / 3, dtype=torch.float64)
    asked = ~torch.eye(3, dtype=torch.bool).expand(prob.shape)
    duel = Duel(prompts, circle, circle, prob, weight, weight, asked, "probability", 1)
    losses = {}
    for planes in (0, 2):
        model = NetworkModel(policy, ModelConfig(planes=planes, steps=40, batch_size=16), seed=0)
        assert model.foresight(duel)["log_loss"] == pytest.approx(np.log(2), abs=0.02)
        model.add(duel)
        losses[planes] = model.foresight(duel)["log_loss"]
        learned = model.prob(prompts, circle, circle)
        assert torch.allclose(learned + learned.mT, torch.ones_like(learned))
    assert losses[2] < 0.4
    assert losses[0] > 0.65


@pytest.mark.slow
def test_on_text_it_keeps_the_contract_of_an_agent(chat):
    policy, prompts = chat
    task = dataclasses.replace(make_task("chat", tokenizer=TinyConfig().load_tokenizer()), prompts=tuple(prompts))
    model = ModelConfig(steps=1, batch_size=4)
    config = OELHFConfig(responses=1, candidates=2, ipo=dataclasses.replace(QUIET, responses=2), model=model)
    agent = OELHF(config, policy, 0)
    assert agent.planner == "ipo"
    assert isinstance(agent.enhancer, Tournament)
    check_agent(agent, DuelArena(task, oracles.make("bt"), 2, "outcome"))


def test_the_evaluated_game_has_the_tau_of_the_main_agent():
    assert OELHFConfig(ipo=IPOConfig(tau=0.3)).tau == 0.3


def test_what_needs_a_table_is_refused_for_networks(chat):
    for fields in ({"planner": "exact"}, {"enhancer": "uniform"}):
        with pytest.raises(ValueError, match="needs a table of all responses"):
            OELHF(OELHFConfig(**fields), chat[0], 0)


@pytest.mark.parametrize("seed", range(10))
def test_linear_doubt_is_the_most_that_a_wrong_model_could_gain(chat, seed):
    """Gamma by its definition: the largest |<theta, phi>| over directions theta, found by descent on the ratio."""
    doubt = LinearUncertainty(chat[0], ridge=0.7, per=2)
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    doubt.inverse = torch.eye(4, dtype=torch.float64) / 0.7
    for row in seen:
        doubt.inverse = doubt._after(doubt.inverse, row)
    left = torch.randn(1, 1, 4, dtype=torch.float64, generator=generator)
    others = torch.randn(1, 6, 4, dtype=torch.float64, generator=generator)
    best = []
    for phi in left[0, 0] - others[0]:
        spread = 0.7 * torch.eye(4, dtype=torch.float64) + seen.T @ seen / 2
        ratios = torch.randn(4000, 4, dtype=torch.float64, generator=generator)
        sampled = (ratios @ phi).abs() / ((ratios @ spread) * ratios).sum(1).sqrt()
        theta = torch.linalg.solve(spread, phi)
        reached = (theta @ phi).abs() / (theta @ spread @ theta).sqrt()
        assert reached >= sampled.max() - 1e-12
        best.append(reached.item())
    assert doubt.most_uncertain(left, others) == [[int(np.argmax(best))]]


def test_linear_doubt_asks_something_else_once_it_has_asked(chat):
    doubt = LinearUncertainty(chat[0], ridge=0.1, per=1)
    doubt.inverse = torch.eye(2, dtype=torch.float64) / 0.1
    left = torch.zeros(1, 3, 2, dtype=torch.float64)
    others = torch.tensor([[[1.0, 0.0], [0.0, 0.9], [0.1, 0.1]]], dtype=torch.float64)
    assert doubt.most_uncertain(left, others) == [[0, 1, 0]]


@pytest.mark.slow
def test_on_text_the_optimistic_enhancer_keeps_the_contract_of_an_agent(chat):
    policy, prompts = chat
    task = dataclasses.replace(make_task("chat", tokenizer=TinyConfig().load_tokenizer()), prompts=tuple(prompts))
    model = ModelConfig(steps=1, batch_size=4)
    ipo = dataclasses.replace(QUIET, responses=2)
    agent = OELHF(OELHFConfig(enhancer="optimistic", candidates=2, ipo=ipo, model=model), policy, 0)
    check_agent(agent, DuelArena(task, oracles.make("bt"), 2, "outcome"))


@pytest.fixture(scope="module")
def chat():
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    return make_policy("tiny", task=task), list(task.prompts[:3])


def test_a_policy_that_it_can_not_count_for_is_refused():
    with pytest.raises(ValueError, match="without exact"):
        OELHF(OELHFConfig(), TabularPolicy(task(), START, exact=True), 0)
