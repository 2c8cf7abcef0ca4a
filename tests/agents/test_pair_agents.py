"""DPO's family: the distribution that each loss converges to, what it reduces to, and what it keeps."""

import dataclasses

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.bco import BCOConfig
from agents.pairs.beta_dpo import BetaDPOConfig
from agents.pairs.cpo import CPOConfig
from agents.pairs.discopop import DiscoPOPConfig
from agents.pairs.dpo import DPOConfig
from agents.pairs.dpop import DPOPConfig
from agents.pairs.f_dpo import FDPOConfig
from agents.pairs.gpo import FUNCTIONS, GPOConfig
from agents.pairs.nca import NCAConfig
from agents.pairs.orpo import ORPOConfig
from agents.pairs.rdpo import RDPOConfig
from agents.pairs.simpo import SimPOConfig
from agents.pairs.slic import SLiCConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from envs import make_task
from envs.arena import DuelArena
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion
from tests.matrix_games import COMAL, G3_PAYOFF, G3_START, RESPONSES, START, g3, game, law, play

SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None)}
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DPOConfig(tau=0.5, **SOLVED), (0.153357, 0.679897, 0.166747)),
        (RDPOConfig(beta=0.5, alpha=0.1, **SOLVED), (0.186615, 0.677372, 0.136014)),
        (FDPOConfig(beta=1.0, divergence="forward_kl", **SOLVED), (0.313426, 0.503971, 0.182603)),
        (FDPOConfig(beta=1.0, divergence="js", **SOLVED), (0.171657, 0.682700, 0.145643)),
        (FDPOConfig(beta=1.0, divergence="alpha", **SOLVED), (0.308155, 0.501034, 0.190811)),
        (GPOConfig(beta=0.5, function="savage", **SOLVED), (0.153357, 0.679897, 0.166747)),
        (SimPOConfig(beta=2.0, gamma=0.0, **SOLVED), (0.406998, 0.450277, 0.142725)),
        (CPOConfig(beta=0.5, alpha=0.0, **SOLVED), (0.090031, 0.665241, 0.244728)),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_on_a_reward_it_ends_at_the_optimum_of_the_population(config, expected):
    agent, arena = g3(config)
    play(agent, arena, 1)
    assert law(agent.policy).tolist() == pytest.approx(expected, abs=1e-5)


def test_simpo_ends_there_wherever_it_starts():
    agent, arena = g3(SimPOConfig(beta=2.0, gamma=0.0, **SOLVED), start=double(0.05, 0.05, 0.9))
    play(agent, arena, 1)
    assert law(agent.policy).tolist() == pytest.approx([0.406998, 0.450277, 0.142725], abs=1e-5)


@pytest.mark.parametrize(
    ("function", "scaled"),
    [
        ("logistic", 1.098612),
        ("exponential", 0.549306),
        ("squared", 0.5),
        ("truncated_quadratic", 0.5),
        ("hinge", 1.0),
        ("savage", 1.098612),
    ],
)
def test_the_six_functions_of_gpo_on_two_responses(function, scaled):
    """Beta times the margin at P = 3/4: logit P, its half, 2P - 1 twice, its sign, logit P."""
    agent, arena = two_responses(GPOConfig(beta=0.5, function=function, **SOLVED), double([0.5, 0.75], [0.25, 0.5]))
    play(agent, arena, 1)
    first, second = law(agent.policy).log().tolist()
    assert 0.5 * (first - second) == pytest.approx(scaled, abs=1e-5)
    assert function in FUNCTIONS


def two_responses(config, payoff):
    """An agent on the first two responses, from (1/2, 1/2), and its arena."""
    task = finite_task("two", ("x",), RESPONSES[:2], RESPONSES[:2])
    arena = DuelArena(task, TableOracle(payoff, ("x",), RESPONSES[:2]), None, "probability")
    return config.build(policy=TabularPolicy(task, exact=True)), arena


def of_file(config, *pairs):
    """The law of an agent that has solved a file of (first, second, share of wins)."""
    agent, _ = g3(config)
    task = finite_task("g3", ("x",), RESPONSES, RESPONSES)
    agent.update(FileArena(task, [Preference("x", *pair) for pair in pairs], None).play())
    return law(agent.policy)


def test_cpo_with_its_likelihood_on_three_pairs_equally_often():
    pairs = [(RESPONSES[i], RESPONSES[j], G3_PAYOFF[i, j].item()) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = of_file(CPOConfig(beta=0.5, alpha=1.0, **SOLVED), *pairs)
    assert found.tolist() == pytest.approx([0.187579, 0.482824, 0.329597], abs=1e-5)


@pytest.mark.parametrize(("lam", "expected"), [(0.1, 0.775470), (1.0, 0.702973)])
def test_orpo_on_two_responses_of_one_token(lam, expected):
    """sigma(l) - P + 2 lam (sigma(2l) - P) = 0, l the log odds of the first response, at P = 4/5."""
    config = ORPOConfig(lam=lam, **SOLVED)
    agent, _ = two_responses(config, double([0.5, 0.8], [0.2, 0.5]))
    task = finite_task("two", ("x",), RESPONSES[:2], RESPONSES[:2])
    agent.update(FileArena(task, [Preference("x", "a", "b", 0.8)], None).play())
    assert law(agent.policy)[0].item() == pytest.approx(expected, abs=1e-5)


def test_a_charge_for_tokens_is_a_shifted_reference():
    """R-DPO at alpha .1 is DPO whose reference is e^(-.2 |y|) ref / Z."""
    shifted = G3_START * torch.exp(-0.2 * double(1, 2, 3))
    agent, arena = g3(DPOConfig(tau=0.5, **SOLVED), start=shifted / shifted.sum())
    play(agent, arena, 1)
    assert law(agent.policy).tolist() == pytest.approx([0.186615, 0.677372, 0.136014], abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        RDPOConfig(beta=0.5, alpha=0.0, **STEPS),
        DPOPConfig(beta=0.5, lam=0.0, **STEPS),
        BetaDPOConfig(beta=0.5, alpha=0.0, rho=0.0, **STEPS),
        GPOConfig(beta=0.5, **STEPS),
    ],
    ids=lambda config: type(config).__name__,
)
@pytest.mark.parametrize("exact", [True, False])
def test_it_is_dpo_without_what_it_adds(config, exact):
    agent, arena = g3(config, exact=exact)
    plain, its_arena = g3(DPOConfig(tau=0.5, **STEPS), exact=exact)
    for _ in range(3):
        scalars, expected = play(agent, arena, 1), play(plain, its_arena, 1)
        assert {tag: scalars[tag] for tag in expected} == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(law(agent.policy), law(plain.policy), rtol=0, atol=1e-12)


def test_slic_without_its_likelihood_is_the_hinge_on_log_probabilities():
    """From a uniform start log-ratios are log-probabilities but for a constant: delta 1/b is the hinge / b."""
    agent, arena = g3(SLiCConfig(delta=2.0, lam=0.0, **STEPS), start=UNIFORM)
    faster = dataclasses.replace(STEPS["optimiser"], learning_rate=2.0)
    plain, its_arena = g3(DPOConfig(tau=0.5, loss="hinge", average=False, optimiser=faster), start=UNIFORM)
    for _ in range(3):
        found, expected = play(agent, arena, 1), play(plain, its_arena, 1)
        assert found["loss/policy"] == pytest.approx(2 * expected["loss/policy"])
    assert torch.allclose(law(agent.policy), law(plain.policy))


def test_mean_log_ratios_are_those_of_a_files_tokens():
    """Responses of 1, 2 and 3 tokens: DPO with length_normalised and the released "sigmoid_norm"."""
    agent, arena = g3(DPOConfig(tau=0.5, length_normalised=True, **SOLVED))
    play(agent, arena, 1)
    ratio = (law(agent.policy) / G3_START).log() / double(1, 2, 3)
    assert (0.5 * (ratio - ratio[0])).tolist() == pytest.approx([0.0, 1.0, 0.5], abs=1e-5)


def test_simpo_reads_a_file_of_texts_by_mean_log_probabilities():
    task = make_task("chat")
    pair = Preference(task.prompts[0], "Set the saddle height, then pump the tires.", "Pump the tires.", 1.0)
    policy = TinyConfig().build(task=task)
    texts = [Completion(pair.first), Completion(pair.second)]
    with torch.no_grad():
        log_policy = policy.logprob([pair.prompt], [texts])[0]
    means = log_policy / torch.tensor([policy.length(text) for text in texts])
    scalars = SimPOConfig(average=False).build(policy=policy).update(FileArena(task, [pair], 1).play())
    expected = losses.simpo(means[:1], means[1:], torch.ones(1), 2.5, 1.375).item()
    assert scalars["loss/policy"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", [SLiCConfig, CPOConfig, SimPOConfig, ORPOConfig])
def test_without_a_reference_none_is_kept(kind):
    agent, arena = game(kind())
    assert agent.reference is None
    assert set(agent.state_dict()) == {"policy", "opponent", "average", "optimiser", "updates"}
    scalars = play(agent, arena, 1)
    assert "policy/entropy" in scalars
    assert "policy/kl" not in scalars
    with pytest.raises(ValueError, match="no reference to renew"):
        kind(renew_reference_every=2)


class Shared(TabularPolicy):
    """Three responses whose logits are one parameter times 1, 0 and 3."""

    def log_probs(self, prompts):
        return torch.log_softmax(self.logits[self.cells.rows_of(prompts)][:, :1] * double(1, 0, 3), dim=-1)


@pytest.mark.parametrize(("config", "low", "high"), [(DPOConfig(tau=0.3), -9.0, -0.5), (DPOPConfig(), -0.1, 0.1)])
def test_dpo_lowers_the_winner_with_the_loser_and_dpop_does_not(config, low, high):
    """A wins against b for certain; what they share makes c likelier the larger their margin is."""
    task = finite_task("shared", ("x",), RESPONSES, RESPONSES)
    optimiser = OptimiserConfig("sgd", learning_rate=0.05, warmup=0)
    policy = Shared(task, probs=UNIFORM)
    policy.logits.data.zero_()
    agent = dataclasses.replace(config, average=False, optimiser=optimiser).build(policy=policy)
    arena = FileArena(task, [Preference("x", "a", "b", 1.0)], None)
    for _ in range(150):
        agent.update(arena.play())
    assert low < (3 * law(policy)[0]).log().item() < high


def test_discopop_moves_away_from_weak_winners():
    """Its blend rises at margin 0: from the reference both responses of a pair at P = .6 are led the wrong way."""
    agent, arena = two_responses(DiscoPOPConfig(**STEPS), double([0.5, 0.6], [0.4, 0.5]))
    play(agent, arena, 20)
    assert law(agent.policy)[0].item() < 0.499


def test_nca_and_bco_look_at_win_rates_against_the_sampling_policy():
    """Where the minimum satisfies mu (sigma(b r) - target) proportional to pi, for targets 2W / (1 + 2W) and W."""
    win_rate = COMAL @ START
    for config, target, slope in (
        (NCAConfig(beta=0.5, **SOLVED), 2 * win_rate / (1 + 2 * win_rate), win_rate + 0.5),
        (BCOConfig(beta=0.5, **SOLVED), win_rate, 1.0),
    ):
        agent, arena = game(config, exact=True)
        play(agent, arena, 1)
        policy = law(agent.policy)
        pull = START * slope * (torch.sigmoid(0.5 * (policy / START).log()) - target) / policy
        assert torch.allclose(pull, pull.mean().expand(3), atol=1e-6)


def test_beta_follows_the_margins_of_the_batch():
    """Before the first step every margin is 0; then the mean leads its running mean by .9 of itself."""
    agent, arena = game(BetaDPOConfig(beta=0.2, alpha=0.5, rho=0.0, **STEPS), exact=True)
    assert play(agent, arena, 1)["loss/beta"] == pytest.approx(0.2)
    ratio, weight = (law(agent.policy) / START).log(), law(agent.policy)
    margin = (weight[:, None] * weight * COMAL * 2 * (ratio[:, None] - ratio)).sum().item()
    assert play(agent, arena, 1)["loss/beta"] == pytest.approx(0.2 * (1 + 0.5 * 0.9 * margin))
    assert agent.margin[0].item() == pytest.approx(0.1 * margin)


@pytest.mark.parametrize(("fields", "exact"), [({}, True), ({"rho": 0.5}, False), ({"pairs": "best_worst"}, False)])
def test_beta_dpo_draws_by_key_and_keeps_its_running_mean(fields, exact):
    check_agent(*game(BetaDPOConfig(average=False, **fields), exact=exact, prompts=("x", "y")))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GPOConfig, {"function": "cubic"}, "function must be one of"),
        (FDPOConfig, {"divergence": "reverse_kl"}, "divergence must be one of"),
        (FDPOConfig, {"divergence": "alpha", "alpha": 1.0}, r"alpha must lie in \(0, 1\)"),
        (FDPOConfig, {"divergence": "js", "alpha": 0.3}, "makes no use of alpha"),
        (BetaDPOConfig, {"rho": 1.0}, r"rho must lie in \[0, 1\)"),
        (SimPOConfig, {"gamma": -1.0}, "gamma must be at least 0"),
        (RDPOConfig, {"beta": 0.0}, "beta must be positive"),
        (SLiCConfig, {"responses": 1}, "responses must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
