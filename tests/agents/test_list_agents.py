"""Agents of lists: the numbers and the distributions that theory gives, and what they are of two responses."""

import dataclasses
import json

import pytest
import torch

from agents.check import check_agent
from agents.lists.dno import DNOConfig
from agents.lists.lipo import LiPOConfig
from agents.lists.plackett_luce import PlackettLuceConfig
from agents.lists.pro import PROConfig
from agents.lists.rrhf import RRHFConfig
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.pairs.simpo import SimPOConfig
from agents.policies.tabular import TabularPolicy
from agents.sppo import SPPOConfig
from envs import make_task
from envs.offline import FileArena, Preference, ResponseList
from envs.tasks.finite import finite_task
from preference_duel.types import Completion
from runners.duel import main
from tests.matrix_games import COMAL, G3_START, RESPONSES, START, g3, game, law, play

KINDS = PlackettLuceConfig, LiPOConfig, PROConfig, RRHFConfig, DNOConfig
SOLVED = {"average": False, "optimiser": OptimiserConfig("lbfgs")}
STEPS = {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate=1.0, max_grad_norm=None)}
RANKED = {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0}
DPO_LAW = 0.153357, 0.679897, 0.166747


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scored(*scores):
    """P = sigma(s_i - s_j) of a list of the responses a, b and c."""
    values = double(*scores)
    return {(i, j): torch.sigmoid(values[i] - values[j]).item() for i, j in RANKED}


def of_file(config, *given, start=G3_START, now=None, lengths=(1, 2, 3)):
    """The scalars of one update on a file, and the law after it, from `now` against the reference `start`."""
    names = ["a", "b", "c", "d"][: len(start)]
    tokens = tuple(Completion(name, (0,) * length) for name, length in zip(names, (*lengths, 1), strict=False))
    task = dataclasses.replace(finite_task("g3", ("x",), names, names), responses=tokens)
    agent = config.build(policy=TabularPolicy(task, start, exact=True))
    if now is not None:
        agent.policy.load_state_dict(TabularPolicy(task, now).state_dict())
    return agent.update(FileArena(task, given, None).play()), law(agent.policy)


def towards(*scores):
    """The law whose log-ratios to G3_START are some scores at beta 1/2, but for a constant."""
    law = G3_START * (double(*scores) / 0.5).exp()
    return law / law.sum()


@pytest.mark.parametrize(("kind", "expected"), [(LiPOConfig, 0.501909), (PlackettLuceConfig, 1.565878)])
def test_a_ranking_costs_what_the_paper_says(kind, expected):
    """Scores .2, .5 and -.1 of responses that are ranked in their order, with win rates 1, 1/2 and 0."""
    given = ResponseList("x", ("a", "b", "c"), RANKED)
    scalars, _ = of_file(kind(beta=0.5, **STEPS), given, now=towards(0.2, 0.5, -0.1))
    assert scalars["loss/policy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PROConfig(sft_weight=0.0, reward="log_odds", **STEPS), 2.033363),
        (PROConfig(sft_weight=0.05, reward="log_odds", **STEPS), 2.033363 + 0.05 * 4 * 3.0),
        (RRHFConfig(**STEPS), 0.2 + 3.0),
        (RRHFConfig(rrhf_weight=100.0, **STEPS), 20.0 + 3.0),
    ],
)
def test_a_scored_list_costs_what_the_paper_says(config, expected):
    """Means -1, -.8 and -2 over 3, 2 and 1 tokens, rewards 2, 1 and -1/2; the best one's log-probability is -3."""
    start = double(-3.0, -1.6, -2.0).exp()
    start = torch.cat([start, 1 - start.sum().view(1)])
    given = ResponseList("x", ("a", "b", "c"), scored(2.0, 1.0, -0.5))
    scalars, _ = of_file(config, given, start=start, lengths=(3, 2, 1))
    assert scalars["loss/policy"] == pytest.approx(expected, abs=1e-5)


def test_rankings_of_a_population_have_the_optimum_of_its_pairs():
    """Plackett-Luce by rewards 0, 1 and 1/2: of a whole distribution, and of a file of scores."""
    config = PlackettLuceConfig(beta=0.5, **SOLVED)
    agent, arena = g3(config)
    play(agent, arena, 1)
    assert law(agent.policy).tolist() == pytest.approx(DPO_LAW, abs=1e-5)
    _, found = of_file(config, ResponseList("x", ("a", "b", "c"), scored(0.0, 1.0, 0.5)))
    assert found.tolist() == pytest.approx(DPO_LAW, abs=1e-5)


@pytest.mark.parametrize("beta", [0.25, 2.0])
def test_dno_solved_is_hedge_and_sppo(beta):
    """pi_t exp(W / beta) / Z, round after round: SPPO with eta = 1 / beta and its exact log Z."""
    agent, arena = game(DNOConfig(beta=beta, **SOLVED), exact=True)
    plain, its_arena = game(SPPOConfig(eta=1 / beta, normaliser="log_z", log_kl=False, **SOLVED), exact=True)
    expected = START
    for _ in range(3):
        play(agent, arena, 1)
        play(plain, its_arena, 1)
        expected = torch.softmax(expected.log() + COMAL @ expected / beta, 0)
        assert torch.allclose(law(agent.policy), expected, rtol=0, atol=1e-10)
        assert torch.allclose(law(agent.policy), law(plain.policy), rtol=0, atol=1e-10)


def rate(learning_rate):
    return {"average": False, "optimiser": OptimiserConfig("sgd", learning_rate, max_grad_norm=None)}


@pytest.mark.parametrize(
    ("config", "pairs", "scale"),
    [
        (PlackettLuceConfig(beta=0.5, responses=2, **STEPS), DPOConfig(tau=0.5, responses=2, **STEPS), 1.0),
        (
            LiPOConfig(beta=0.5, responses=2, **STEPS),
            DPOConfig(tau=0.5, responses=2, **rate(0.532456)),
            0.532456,
        ),
        (PROConfig(sft_weight=0.0, responses=2, **STEPS), SimPOConfig(beta=1.0, gamma=0.0, responses=2, **STEPS), 1.0),
    ],
)
def test_of_two_samples_it_is_an_agent_of_pairs(config, pairs, scale):
    """LiPO: DPO times (2^1 - 2^0)(1/log 2 - 1/log 3) = .532456."""
    (agent, arena), (plain, its_arena) = g3(config, exact=False), g3(pairs, exact=False)
    for _ in range(5):
        found, expected = play(agent, arena, 1), play(plain, its_arena, 1)
        assert found["loss/policy"] == pytest.approx(scale * expected["loss/policy"], rel=1e-5, abs=1e-9)
    assert torch.allclose(law(agent.policy), law(plain.policy), atol=1e-5)


def test_a_file_of_comparisons_is_one_of_lists_of_two():
    pairs = [("a", "b", 1.0), ("c", "b", 0.3), ("a", "c", 0.6)]
    lists = [ResponseList("x", (first, second), {(0, 1): share}) for first, second, share in pairs]
    _, found = of_file(PlackettLuceConfig(beta=0.5, **SOLVED), *lists)
    _, expected = of_file(DPOConfig(tau=0.5, **SOLVED), *(Preference("x", *pair) for pair in pairs))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_a_batch_may_have_different_lengths(kind):
    config = kind(**STEPS)
    long = ResponseList("x", ("c", "a", "b"), scored(1.0, 0.0, 0.5))
    short = ResponseList("x", ("b", "c"), {(0, 1): 0.8})
    alone = [of_file(config, one, now=START)[0]["loss/policy"] for one in (long, short)]
    together, _ = of_file(config, long, short, now=START)
    assert together["loss/policy"] == pytest.approx(sum(alone) / 2)
    assert not any(tag.startswith("policy/") for tag in together)  # the responses are not the policy's


@pytest.mark.parametrize("kind", [LiPOConfig, PROConfig, RRHFConfig])
def test_what_takes_an_order_for_certain_ends_at_the_response_that_wins_most(kind):
    """Against the start of COMAL-3 that is c; beta 1, where there is one."""
    fields = {"beta": 1.0} if kind is LiPOConfig else {}
    agent, arena = game(kind(refresh_every=10**6, **fields, **rate(10.0)), exact=True)
    play(agent, arena, 100)
    assert (COMAL @ START).argmax() == 2
    assert law(agent.policy)[2] > 0.95


def test_dno_in_practice_keeps_pairs_that_are_far_apart():
    """Win rates 1, 1/2 and 0: a margin of .6 leaves the best and the worst, one of .4 all three pairs."""
    given = ResponseList("x", ("a", "b", "c"), RANKED)
    ends = ResponseList("x", ("a", "c"), {(0, 1): 1.0})
    for margin, lists in ((0.6, [ends]), (0.4, [given])):
        _, found = of_file(DNOConfig(beta=1.0, practical=True, margin=margin, **STEPS), given)
        _, expected = of_file(DNOConfig(beta=1.0, practical=True, **STEPS), *lists)
        assert torch.allclose(found, expected)
    close = ResponseList("x", ("a", "b", "c"), scored(0.0, 0.1, 0.2))
    scalars, found = of_file(DNOConfig(practical=True, margin=0.6, **STEPS), close)
    assert scalars["loss/policy"] == 0
    assert torch.allclose(found, G3_START)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_distributions_keep_the_contract(kind):
    check_agent(*game(kind(), exact=True))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PlackettLuceConfig, {"beta": 0.0}, "beta must be positive"),
        (LiPOConfig, {"responses": 1}, "responses must be at least 2"),
        (PROConfig, {"reward": "score"}, "reward must be one of"),
        (PROConfig, {"sft_weight": -1.0}, "sft_weight must be at least 0"),
        (RRHFConfig, {"rrhf_weight": -1.0}, "rrhf_weight must be at least 0"),
        (DNOConfig, {"margin": 0.5}, "of the practical form; add practical"),
        (DNOConfig, {"practical": True, "margin": 2.0}, r"margin must lie in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_log_odds_of_outcomes_are_refused():
    agent, arena = game(PROConfig(reward="log_odds"))
    with pytest.raises(ValueError, match="needs probabilities, and this duel holds outcomes"):
        play(agent, arena, 1)
    pairs = FileArena(finite_task("game", ("x",), RESPONSES, RESPONSES), [Preference("x", "a", "b", 1.0)], None)
    with pytest.raises(ValueError, match="seats hold different responses; take an agent of pairs"):
        agent.update(pairs.play())


@pytest.mark.slow
def test_a_run_learns_from_a_file_of_lists_and_goes_on_after_a_stop(tmp_path, capsys):
    texts = make_task("symbols", length=1, prompts=2).response_texts
    rows = [
        {"prompt": f"#{i % 2}", "responses": texts[: 2 + i % 2], "ranking": [1, 2, 3][: 2 + i % 2]} for i in range(6)
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    game = [
        "--task",
        "symbols",
        "--task.length",
        "1",
        "--task.prompts",
        "2",
        "--agent",
        "lipo",
        "--run.eval_every",
        "0",
    ]
    words = [*game, "--run.data", str(tmp_path / "lists.jsonl"), "--run.batch_size", "4"]
    assert main([*words, "--run.steps", "4", "--run.dir", str(tmp_path / "whole")]) == 0
    assert "6 rows (ranked), 6 lists" in capsys.readouterr().out
    assert main([*words, "--run.steps", "2", "--run.dir", str(tmp_path / "parts")]) == 0
    assert main(["--resume", str(tmp_path / "parts"), "--run.steps", "4"]) == 0
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        for name in ("whole", "parts")
    ]
    whole, parts = ({tag: value for tag, value in line.items() if "time" not in tag} for line in last)
    assert whole == parts
    assert whole["duel/queries"] == 4 * 4 / 6 * (3 * 1 + 3 * 3)
