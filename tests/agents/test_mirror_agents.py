"""INPO, EGPO, COMAL and Nash-MD: rates of exact play against linearised theory, limits, the contract of an agent."""

import pytest
import torch

from agents.check import check_agent
from agents.nash.comal import COMALConfig
from agents.nash.egpo import EGPOConfig
from agents.nash.inpo import INPOConfig
from agents.nash.nash_md import NashMDConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from envs.arena import DuelArena
from envs.games import exploitability, kl_divergence, regularised_exploitability, regularised_nash
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion, Duel

ROCK = [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]
COMAL = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
START = [0.2, 0.5, 0.3]
RESPONSES = ["a", "b", "c"]
SOLVED = OptimiserConfig("lbfgs")
SPEED = 2.035697
"""|Im| of the eigenvalues of eta A diag(pi*) on COMAL-3 with reference START and tau = .1."""
TURN = 0.5 / 3**0.5
"""The same of A alone on deterministic rock-paper-scissors at the uniform policy."""


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def game(config, payoff=COMAL, exact=True, start=START, prompts=("x",), seed=0):
    task = finite_task("game", prompts, RESPONSES, RESPONSES)
    policy = TabularPolicy(task, probs=double(start), exact=exact)
    oracle = TableOracle(double(payoff), prompts, RESPONSES)
    arena = DuelArena(task, oracle, None, "probability" if exact else "outcome", seed=seed)
    return config.build(policy=policy, seed=seed), arena


def play(agent, arena, steps: int) -> dict[str, float]:
    scalars = {}
    for _ in range(steps):
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
    return scalars


def law(policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.log_probs(["x"])[0].exp()


def modulus(config, every: int = 1, tau: float = 0.1, payoff=COMAL, start=START) -> float:
    """How much `every` exact updates scale a small distance to the equilibrium: the root of their determinant."""
    agent, arena = game(config, payoff, start=start)
    centre = regularised_nash(double(payoff), double(start), tau, tol=1e-14).policy.log()
    for policy in (agent.policy, getattr(agent, "opponent", agent.policy)):
        policy.logits.data.copy_((centre + double([1e-5, 0, -1e-5]))[None])
    offsets = []
    for _ in range(4):
        play(agent, arena, every)
        logits = law(agent.policy).log() - centre
        offsets.append((logits - logits.mean())[:2])
    first, then = torch.stack(offsets[1:3], 1), torch.stack(offsets[2:], 1)
    return torch.linalg.det(then @ torch.linalg.inv(first)).item() ** 0.5


@pytest.mark.parametrize(("share", "expected"), [(0.02, 0.980845), (1 / 3, 0.951260)])
def test_inpo_contracts_as_the_linearised_theory_says(share, expected):
    assert abs(1 - share * (1 - 1j * SPEED)) == pytest.approx(expected, abs=5e-7)
    rate = modulus(INPOConfig(tau=0.1, eta=share / 0.1, average=False, optimiser=SOLVED))
    assert rate == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("share", [0.38, 0.40])
def test_inpo_is_stable_up_to_its_largest_step_alone(share):
    """Stable iff share < 2/(1 + s^2) = .388798."""
    rate = modulus(INPOConfig(tau=0.1, eta=share / 0.1, average=False, optimiser=SOLVED))
    assert (rate < 1) == (share < 0.388798)


@pytest.mark.parametrize("tau", [0.1, 0.25])
@pytest.mark.parametrize("side", [0.99, 1.01])
def test_inpo_on_rock_paper_scissors_is_stable_above_the_published_threshold(tau, side):
    """In the paper's eta, the inverse of ours: stable iff it exceeds (tau^2 + beta0^2)/(2 tau), .466667 at tau = .1."""
    inverse = side * (tau**2 + TURN**2) / (2 * tau)
    config = INPOConfig(tau=tau, eta=1 / inverse, average=False, optimiser=SOLVED)
    assert (modulus(config, tau=tau, payoff=ROCK, start=[1 / 3] * 3) < 1) == (side > 1)


def test_egpo_contracts_as_the_linearised_theory_says():
    rate = modulus(EGPOConfig(tau=0.1, eta=3.29414, average=False, optimiser=SOLVED), every=2)
    assert rate == pytest.approx(0.501013, abs=2e-6)


@pytest.mark.slow
def test_egpo_is_fastest_at_a_known_step():
    steps = {share: EGPOConfig(eta=share / 0.1, average=False, optimiser=SOLVED) for share in (0.36, 0.37, 0.38)}
    rates = {share: modulus(config, every=2) for share, config in steps.items()}
    assert min(rates, key=rates.__getitem__) == 0.37
    assert rates[0.37] == pytest.approx(0.479, abs=5e-4)


@pytest.mark.parametrize(("tau", "share"), [(0.1, 0.05), (0.1, 0.3), (0.25, 0.2)])
def test_nash_md_contracts_as_the_linearised_theory_says(tau, share):
    """On rock-paper-scissors its rate is (1 - eta tau) sqrt(1 + (eta beta0)^2)."""
    config = NashMDConfig(form="mirror", mixture=share, tau=tau, average=False, optimiser=SOLVED)
    expected = (1 - share) * (1 + (share / tau * TURN) ** 2) ** 0.5
    assert modulus(config, tau=tau, payoff=ROCK, start=[1 / 3] * 3) == pytest.approx(expected, abs=2e-6)


@pytest.mark.slow
def test_nash_md_with_a_constant_share_ends_beside_the_equilibrium_and_annealed_does_not():
    nash = regularised_nash(double(COMAL), double(START), 0.1, tol=1e-13).policy
    constant, arena = game(NashMDConfig(form="mirror", mixture=0.02, average=False, optimiser=SOLVED))
    constant.policy.logits.data.copy_(nash.log()[None])
    play(constant, arena, 480)
    assert kl_divergence(nash, law(constant.policy)).item() == pytest.approx(3.018e-5, abs=5e-9)
    annealed, arena = game(NashMDConfig(form="mirror", anneal=True, average=False, optimiser=SOLVED))
    play(annealed, arena, 500)
    assert kl_divergence(nash, law(annealed.policy)).item() < 3e-6


@pytest.mark.slow
def test_the_gradient_of_nash_md_ends_where_the_policy_answers_its_opponent_best():
    """Its fixed point: pi = ref exp(P(. beats pi^(1-b) ref^b) / tau) / Z."""
    optimiser = OptimiserConfig("sgd", learning_rate=1.0, decay=300.0, max_grad_norm=None)
    agent, arena = game(NashMDConfig(average=False, optimiser=optimiser))
    play(agent, arena, 1500)
    opponent = (0.875 * law(agent.policy).log() + 0.125 * double(START).log()).softmax(0)
    answer = (double(START).log() + double(COMAL) @ opponent / 0.1).softmax(0)
    assert (law(agent.policy) - answer).abs().max() < 1e-4


@pytest.mark.parametrize("side", [0.95, 1.05])
def test_egpo_without_a_kl_term_is_stable_up_to_the_inverse_turn(side):
    """At tau = 0 an extragradient step contracts iff eta beta0 < 1."""
    agent, arena = game(
        EGPOConfig(tau=0.0, eta=side / TURN, average=False, optimiser=SOLVED), ROCK, start=[0.3334, 0.3333, 0.3333]
    )
    third = torch.full((3,), 1 / 3).double()
    before = (law(agent.policy) - third).norm()
    play(agent, arena, 24)
    assert bool((law(agent.policy) - third).norm() < before) == (side < 1)


def test_comal_reaches_the_unregularised_nash_policy_in_the_last_iterate():
    inner = INPOConfig(tau=0.1, eta=2.0, average=False, optimiser=SOLVED)
    agent, arena = game(COMALConfig(renew_every=12, inner=inner))
    play(agent, arena, 144)
    assert law(agent.policy).tolist() == pytest.approx((4 / 11, 3 / 11, 4 / 11), abs=1e-5)
    assert exploitability(double(COMAL), law(agent.policy)) < 1e-5


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (INPOConfig(eta=1.0, optimiser=OptimiserConfig(learning_rate=0.03, decay=100.0)), 1000),
        pytest.param(
            EGPOConfig(eta=1.0, optimiser=OptimiserConfig(learning_rate=0.03, decay=100.0)),
            2500,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            NashMDConfig(form="mirror", optimiser=OptimiserConfig(learning_rate=0.03, decay=100.0)),
            1000,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            NashMDConfig(mixture=0.02, optimiser=OptimiserConfig(learning_rate=0.03, decay=100.0)),
            2500,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_outcomes_lead_where_probabilities_do(config, steps):
    start, payoff = double(START), double(COMAL)
    agent, arena = game(config, exact=False)
    before = regularised_exploitability(payoff, start, start, 0.1)
    play(agent, arena, steps)
    assert regularised_exploitability(payoff, law(agent.policy), start, 0.1) < 0.1 * before


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        INPOConfig(),
        INPOConfig(refresh_every=3, average=False, optimiser=OptimiserConfig("sgd", momentum=0.5)),
        EGPOConfig(),
        EGPOConfig(tau=0.0, average=False),
        COMALConfig(renew_every=3),
        NashMDConfig(),
        NashMDConfig(form="mirror", anneal=True, average=False),
    ],
)
def test_they_keep_the_contract_of_an_agent(config, exact):
    check_agent(*game(config, exact=exact, prompts=("x", "y")))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (INPOConfig, {"tau": 0.0}, "tau must be positive"),
        (INPOConfig, {"eta": 11.0}, r"eta must lie in \(0, 1/tau\], got 11.0 at tau=0.1"),
        (INPOConfig, {"responses": 1}, "responses must be at least 2"),
        (INPOConfig, {"refresh_every": 0}, "refresh_every must be at least 1"),
        (EGPOConfig, {"tau": -0.1}, "tau must be at least 0"),
        (EGPOConfig, {"eta": 0.0}, "eta must be positive"),
        (EGPOConfig, {"responses": 1}, "responses must be at least 2"),
        (COMALConfig, {"renew_every": 0}, "renew_every must be at least 1"),
        (NashMDConfig, {"mixture": 0.0}, r"mixture must lie in \(0, 1\]"),
        (NashMDConfig, {"anneal": True}, "anneal belongs to form='mirror'"),
        (NashMDConfig, {"form": "mirror", "responses": 1}, "responses must be at least 2"),
        (NashMDConfig, {"form": "other"}, "form must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_a_duel_of_two_laws_is_refused():
    agent, arena = game(INPOConfig(), exact=False)
    arena.reset()
    left, right = [[Completion("a"), Completion("b")]], [[Completion("b"), Completion("c")]]
    half, prob = double([[0.5, 0.5]]), double([[[0.0, 1.0], [0.5, 0.0]]])
    with pytest.raises(ValueError, match="the seats hold samples of two"):
        agent.update(Duel(["x"], left, right, prob, half, half, prob > -1, "outcome", 1))
