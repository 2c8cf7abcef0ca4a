"""Self-play IPO against the equilibria that theory gives it."""

import dataclasses

import pytest
import torch

import agents
from agents.check import check_agent
from agents.ipo import IPO, IPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from envs import make_task
from envs.arena import DuelArena
from envs.games import kl_divergence, regularised_exploitability, regularised_nash
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.protocols import Policy, traits
from preference_duel.types import Completion, Duel
from tests.paths import DOCS

ROCK = [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]
COMAL = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
START = [0.5, 0.3, 0.2]
RESPONSES = ["a", "b", "c"]
PLAIN = {"method": "sgd", "warmup": 0, "max_grad_norm": None}
THRESHOLD = 0.5 / 3**0.5


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def game(payoff, exact=True, prompts=("x",), seed=0, responses=RESPONSES, start=START, **fields):
    task = finite_task("game", prompts, responses, responses)
    optimiser = OptimiserConfig(**fields.pop("optimiser", {}))
    policy = TabularPolicy(task, probs=double(start), exact=exact)
    feedback = "probability" if exact else "outcome"
    arena = DuelArena(task, TableOracle(double(payoff), prompts, responses), None, feedback, seed=seed)
    return IPOConfig(optimiser=optimiser, **fields).build(policy=policy, seed=seed), arena


def play(agent: IPO, arena: DuelArena, steps: int) -> dict[str, float]:
    scalars = {}
    for _ in range(steps):
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
    return scalars


def law(policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.log_probs(["x"])[0].exp()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau", "rate", "expected"),
    [
        (0.05, 0.008, (0.351185, 0.303336, 0.345478)),
        (0.1, 0.02, (0.375327, 0.277433, 0.347240)),
        (0.5, 0.3, (0.496854, 0.240876, 0.262271)),
        (1.0, 0.3, (0.510868, 0.261556, 0.227576)),
    ],
)
def test_single_exact_steps_reach_the_regularised_nash_policy(tau, rate, expected):
    agent, arena = game(ROCK, tau=tau, average=False, optimiser={**PLAIN, "learning_rate": rate})
    play(agent, arena, 2500)
    assert law(agent.policy).tolist() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("tau", [THRESHOLD * 1.1, THRESHOLD * 0.9])
def test_solved_rounds_contract_by_the_threshold_over_tau(tau):
    """An exactly solved round is a best response; on deterministic rock-paper-scissors it turns and scales errors."""
    near = [1 / 3 + 1e-4, 1 / 3, 1 / 3 - 1e-4]
    agent, arena = game(ROCK, tau=tau, average=False, start=near, optimiser={"method": "lbfgs"})
    nash = regularised_nash(double(ROCK), double(near), tau, tol=1e-14).policy
    distances = []
    for steps in (1, 12):  # a whole turn of the three responses
        play(agent, arena, steps)
        distances.append((law(agent.policy) - nash).norm().item())
    assert distances[1] / distances[0] == pytest.approx((THRESHOLD / tau) ** 12, rel=0.01)


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.993307), (0.5, 0.731059), (1.0, 0.622459), (10.0, 0.512497)])
def test_with_two_responses_one_solved_round_is_the_logistic_of_half_the_inverse_tau(tau, expected):
    sure = [[0.5, 1.0], [0.0, 0.5]]
    agent, arena = game(sure, tau=tau, responses=RESPONSES[:2], start=[0.5, 0.5], optimiser={"method": "lbfgs"})
    play(agent, arena, 1)
    assert law(agent.policy)[0].item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.slow
def test_outcomes_lead_where_probabilities_do():
    start = double(START)
    agent, arena = game(
        COMAL, exact=False, responses=RESPONSES, tau=0.2, optimiser={"learning_rate": 0.03, "decay": 100.0}
    )
    gaps = [regularised_exploitability(double(COMAL), start, start, 0.2).item()]
    for _ in range(2):
        play(agent, arena, 500)
        gaps.append(regularised_exploitability(double(COMAL), law(agent.policy), start, 0.2).item())
    assert gaps[2] < 0.1 * gaps[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"exact": True},
        {"exact": False},
        {"exact": False, "mixture": 0.125},
        {"exact": True, "mixture": 0.5},
        {"exact": False, "length_normalised": True, "average": False},
        {"exact": False, "optimiser": {"method": "adamw", "momentum": 0.9, "decay": 5.0}},
    ],
)
def test_ipo_keeps_the_contract_of_an_agent(fields):
    check_agent(*game(COMAL, prompts=("x", "y"), **fields))


def test_make_builds_it_by_name():
    task = finite_task("game", ["x"], RESPONSES, RESPONSES)
    assert agents.make("ipo", policy=TabularPolicy(task), tau=0.3).config.tau == 0.3


def test_a_mixture_draws_between_the_policy_and_the_start():
    agent, arena = game(COMAL, mixture=0.25)
    agent.policy.logits.data.copy_(double([[0.1, 0.2, 0.7]]).log())
    weight = agent.propose(arena.reset()).left_weight
    between = double([0.1, 0.2, 0.7]) ** 0.75 * double(START) ** 0.25
    assert torch.allclose(weight[0], between / between.sum())


def test_one_step_is_the_gradient_worked_out_by_hand():
    """Two draws a, b with a the winner: the loss is (h - 1/(2 tau))^2 with h = 0, its gradient -1/tau on h."""
    agent, arena = game(COMAL, exact=False, tau=0.5, optimiser={**PLAIN, "learning_rate": 0.1})
    arena.reset()
    rows = [[Completion("a"), Completion("b")]]
    prob = double([[[0.5, 1.0], [0.0, 0.5]]])
    half = double([[0.5, 0.5]])
    duel = Duel(["x"], rows, rows, prob, half, half, ~torch.eye(2, dtype=torch.bool)[None], "outcome", 1)
    scalars = agent.update(duel)
    assert scalars["loss/policy"] == pytest.approx(1.0)
    assert scalars["policy/kl"] == pytest.approx(0)
    moved = agent.policy.logits.detach()[0] - double(START).log()
    assert moved.tolist() == pytest.approx([0.2, -0.2, 0.0])


def test_length_normalised_ratios_are_means_over_tokens():
    words = ["aa", "ab", "bb"]
    task = finite_task("game", ["x"], words, ["a", "b"])
    oracle = TableOracle(double(ROCK), ["x"], words)
    arena = DuelArena(task, oracle, None, "probability")
    losses = []
    for flag in (False, True):
        policy = TabularPolicy(task, probs=double(START), exact=True)
        agent = IPOConfig(length_normalised=flag, tau=1e9).build(policy=policy)
        policy.logits.data.copy_(double([[0.2, 0.2, 0.6]]).log())
        losses.append(play(agent, arena, 1)["loss/policy"])
    assert losses[1] == pytest.approx(losses[0] / 4, rel=1e-6)


def test_what_a_mixture_drew_is_not_logged_as_the_policys():
    agent, arena = game(COMAL, mixture=0.25)
    scalars = play(agent, arena, 2)
    assert not any(tag.startswith("policy/") for tag in scalars)
    assert not traits(agent).own_draws


@pytest.mark.parametrize("source", ["file", "tokens"])
@pytest.mark.parametrize(
    ("flag", "expected"), [(False, (25.0, 8.26, 0.08, 14.94)), (True, (25.0, 21.99, 17.91, 11.11))]
)
def test_given_texts_are_as_long_as_the_policy_writes_them(source, flag, expected):
    task = make_task("chat")
    pair = Preference(task.prompts[0], "Set the saddle height, then pump the tires.", "Pump the tires.", 1.0)
    policy = TinyConfig().build(task=task)
    assert [policy.length(Completion(text)) for text in (pair.first, pair.second)] == [11, 5]
    config = IPOConfig(length_normalised=flag, average=False, optimiser=OptimiserConfig(learning_rate=1e-3))
    agent, losses = config.build(policy=policy), []
    for _ in expected:
        duel = FileArena(task, [pair], 1).play()
        if source == "tokens":
            seats = (duel.left, duel.right)
            left, right = ([[Completion(y.text, policy.tokens_of(y)) for y in row] for row in seat] for seat in seats)
            duel = dataclasses.replace(duel, left=left, right=right)
        losses.append(agent.update(duel)["loss/policy"])
    assert losses == pytest.approx(expected, abs=0.01)


def test_a_length_that_no_policy_knows_is_an_error():
    with pytest.raises(ValueError, match="tokens of the response 'a text' are not known"):
        Policy.length(TabularPolicy(finite_task("game", ["x"], RESPONSES, RESPONSES)), Completion("a text"))


def test_a_response_without_tokens_has_no_mean(monkeypatch):
    agent, arena = game(COMAL, length_normalised=True)
    monkeypatch.setattr(TabularPolicy, "length", lambda policy, response: 0)
    with pytest.raises(ValueError, match="a response has no tokens, so that it has no mean log-probability"):
        play(agent, arena, 1)


def test_scalars_are_what_the_documentation_says():
    agent, arena = game(COMAL, tau=0.3, optimiser={**PLAIN, "learning_rate": 0.01})
    play(agent, arena, 3)
    now, payoff = law(agent.policy), double(COMAL)
    scalars = play(agent, arena, 1)
    ratio = (now / double(START)).log()
    squares = (ratio[:, None] - ratio[None, :] - (payoff - 0.5) / 0.3) ** 2
    assert scalars["loss/policy"] == pytest.approx((now @ squares @ now).item())
    assert scalars["policy/kl"] == pytest.approx(kl_divergence(now, double(START)).item())
    page = (DOCS / "agents/ipo.md").read_text(encoding="utf-8")
    assert all(f"`{tag}`" in page for tag in scalars)
    assert all(f"`{field.name}`" in page for field in dataclasses.fields(IPOConfig))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.0}, "tau must be positive, got 0"),
        ({"responses": 1}, "responses must be at least 2, got 1"),
        ({"mixture": 1.0}, r"mixture must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        IPOConfig(**fields)
