"""Oracles, exact games, duels and fits on the pretend accelerator; `test_accelerator.py` starts this file."""

import json
from functools import partial

import numpy as np
import pytest
import torch

import oracles
import tests.accelerator.device as accelerator
from agents import BeamSearch, BestOf, Mixture, make_policy
from agents.policies.lm import decoder
from agents.policies.lm.decoder import CachedDecoder, GraphedDecoder
from agents.policies.lm.fused_logprob import fused_logprob
from envs import DuelArena, Proposal, TokenDuels, games, make_task
from envs.games import lower_bounds
from envs.games.tries import Trie
from envs.token_duel import duels_torch
from envs.token_duel.duels_torch import TorchDuels
from envs.votes.preferences import Preference
from oracles.group_rewards import group_rewards
from oracles.judging.local_judge import LocalConfig, LocalJudge
from oracles.readers.out_of_distribution import OutOfDistribution
from oracles.registry import BUILT_IN
from preference_duel.keyed_random import Key
from runners import serve
from runners.evaluation.adversaries import Training, best_response
from runners.evaluation.entrants import read_entrants
from runners.evaluation.labelling import Options, label
from runners.evaluation.overoptimisation.gain_curves import SampledGame
from runners.fitting.fit import fit
from runners.fitting.fit_settings import FitConfig
from runners.fitting.trainable import trainable_oracle
from runners.run.cli import parse
from runners.run.evaluator import Evaluation
from tests.agents.policies.lm.test_graphed_decoder import replayed
from tests.oracles.judging import test_local_judge as local_judges
from tests.oracles.readers import test_classifier as classifiers
from tests.oracles.readers.test_published_gpm import published
from tests.oracles.test_pair_lm import write as write_pair_lm
from tests.paths import GOLDEN
from tests.tiny_models import policy_of, text_task, write_model

pytestmark = pytest.mark.slow
WITHOUT_NETWORK = {"cyclic", "annotators", "length_bias", "borda_trap", "table", "votes", "judge", "human"}
PROMPTS, RESPONSES = ["a b", "c"], [["d e f", "g", "h i"], ["a", "b b", "c d e"]]


def on_the_device(function):
    with accelerator.attached():
        return function()


def lms(folder):
    return {name: str(write_model(folder / name, seed=seed)) for seed, name in enumerate(("policy", "reference"))}


def trusting_all(folder, model):
    """An abstaining oracle's settings with which it reads every pair."""
    rows = [{"prompt": "a b", "response": text} for text in ("a", "b", "c d", "e f g", "h i", "d e")]
    (folder / "reference.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return OutOfDistribution(str(model), str(folder / "reference.jsonl"), level=1e-300, components=2)


def networks(part):
    """The networks of an oracle, and of those that it wraps."""
    if isinstance(part, torch.nn.Module):
        yield part
    elif type(part).__module__.startswith("oracles."):
        for inner in getattr(part, "__dict__", {}).values():
            yield from networks(inner)


JUDGES = {
    "pairrm": lambda folder: {},
    "pairrm in float16": lambda folder: {"dtype": "float16"},
    "pairrm in one order": lambda folder: {"order": "one"},
    "bt": lambda folder: {"model": classifiers.llama(folder)},
    "bt+noise": lambda folder: {"model": classifiers.llama(folder)},
    "bt of pairs": lambda folder: {"model": classifiers.bert(folder)},
    "gpm": lambda folder: {"model": classifiers.bert(folder, labels=5)},
    "gpm as published": lambda folder: {"model": published(folder)},
    "gpm without a prompt head": lambda folder: {"model": published(folder, prompt_head=False)},
    "bt+ood": lambda folder: {"model": (model := classifiers.llama(folder)), "ood": trusting_all(folder, model)},
    "pair_lm": lambda folder: {"model": write_pair_lm(folder), "least_mass": 0.0},
    "implicit": lms,
}
"""Settings of every oracle with a network, several if it reads in several ways; models are written to a folder."""


def test_every_oracle_with_a_network_is_here():
    assert {judge.split()[0] for judge in JUDGES} - {"bt+noise", "bt+ood"} == BUILT_IN.keys() - WITHOUT_NETWORK


@pytest.mark.parametrize("judge", JUDGES)
def test_an_oracle_gives_the_rewards_of_the_cpu(judge, tmp_path):
    settings = JUDGES[judge](tmp_path)
    prompts, texts = (PROMPTS, RESPONSES) if judge != "implicit" else (["ab", "c"], [["a", "bb#", "01"]] * 2)

    def rewards(device):
        oracle = oracles.make(judge.split()[0], device=device, **settings)
        before = sum(accelerator.COSTS.launches.values())
        found = group_rewards(oracle, prompts, texts).rewards
        assert (sum(accelerator.COSTS.launches.values()) > before) == (device == accelerator.NAME)
        assert found.device.type == oracle.prob(prompts, texts[0][:2], texts[1][:2]).device.type == "cpu"
        assert {p.device.type for network in networks(oracle) for p in network.parameters()} <= {device}
        return found

    host = rewards("cpu")
    assert torch.allclose(on_the_device(partial(rewards, accelerator.NAME)), host, atol=5e-3 if "16" in judge else 1e-4)
    assert host.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "seed", "fields"),
    [("letters", 0, {"least_mass": 0.0}), ("brackets", 8, {"logprobs": False, "temperature": 1.0})],
)
def test_a_judge_that_writes_gives_the_verdicts_of_the_cpu(name, seed, fields, tmp_path):
    folder, config = local_judges.write(tmp_path, name, seed), LocalConfig(format=name, max_tokens=5, **fields)

    def verdicts(device):
        judge = LocalJudge(folder, config, "drop", device)
        assert {p.device.type for p in judge.network.parameters()} == {device}
        return torch.stack(judge.both_orders(*local_judges.COLUMNS))

    host = verdicts("cpu")
    assert torch.allclose(on_the_device(partial(verdicts, accelerator.NAME)), host, atol=1e-4, equal_nan=True)
    assert len(host[~host.isnan()].unique()) > 1


def test_a_beam_finds_the_responses_of_the_cpu(tmp_path):
    folders = [write_model(tmp_path / name, seed=seed) for seed, name in enumerate(("policy", "reference"))]

    def found(device):
        policies = [policy_of(folder, text_task(folder, 4), device=device) for folder in folders]
        return [response.text for response in BeamSearch(*policies, 3).best(["ab", "c"])]

    host = found("cpu")
    assert on_the_device(partial(found, accelerator.NAME)) == host


def test_a_mixture_and_a_selection_are_those_of_the_cpu(tmp_path):
    task = make_task("symbols", alphabet=2, length=2, prompts=2)
    folders = [str(write_model(tmp_path / str(seed), seed=seed, num_hidden_layers=1)) for seed in (0, 1)]

    def found(device):
        policies = [make_policy(folder, task=task, device=device) for folder in folders]
        assert {p.device.type for policy in policies for p in policy.parameters()} == {device}
        combined = Mixture(policies, [0.25, 0.75]).to(device), BestOf(policies[0], policies[1].logprob, 2)
        drawn = [[[y.text for y in row] for row in one.draw(task.prompts, 3, Key(0))[0]] for one in combined]
        return torch.stack([one.distribution(task.prompts, task.responses) for one in combined]), drawn

    probs, drawn = found("cpu")
    on_device = on_the_device(partial(found, accelerator.NAME))
    assert torch.allclose(on_device[0], probs, atol=1e-5)
    assert on_device[1] == drawn


def test_replayed_steps_draw_what_the_cpu_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "recorded", replayed)
    write_model(tmp_path)
    task = text_task(tmp_path, 8)

    def drawn(device):
        policy = policy_of(tmp_path, task, device=device)
        policy._decoding = CachedDecoder if device == "cpu" else GraphedDecoder
        return policy.draw(task.prompts, 3, Key(0))[0]

    host, device = drawn("cpu"), on_the_device(partial(drawn, accelerator.NAME))
    assert [[y.tokens for y in row] for row in device] == [[y.tokens for y in row] for row in host]


def test_an_output_layer_in_bfloat16_rounds_as_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 16, generator=generator) for rows in (5, 14))

    def nats(device, enabled=True):
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            inputs = hidden.to(device), weight.to(device), torch.arange(5).to(device)
            return fused_logprob(*inputs, lambda logits, _: logits.float(), 1.0).cpu()

    host = nats("cpu")
    assert torch.allclose(on_the_device(partial(nats, accelerator.NAME)), host, atol=1e-4)
    assert (nats("cpu", enabled=False) - host).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bt", "gpm", "pairrm"])
def test_an_oracle_that_is_fitted_has_the_gradient_of_the_cpu(kind):
    asked = [Preference("Hello?", "Yes.", "No, thanks.", 1.0, ""), Preference("Why?", "So.", "Because.", 0.0, "")]

    def gradient(device):
        model = trainable_oracle(kind, None, 2, device, 0)
        logits = model.logits(asked, Key(0, 0))
        logits.square().sum().backward()
        gradients = [p.grad.cpu().flatten() for p in model.network.parameters() if p.grad is not None]
        assert logits.device.type == device
        return torch.cat([logits.detach().cpu(), *gradients])

    host = gradient("cpu")  # first: heads and rotary tables of a model that is loaded first on the device stay unset
    assert torch.allclose(on_the_device(partial(gradient, accelerator.NAME)), host, rtol=1e-3, atol=1e-4)


def test_a_fit_is_that_of_the_cpu(tmp_path, monkeypatch):
    def fitted(device):
        monkeypatch.setattr("runners.fitting.fit.choose_device", lambda wanted: device)
        config = FitConfig("bt", str(GOLDEN / "comparisons.jsonl"), epochs=1, held_out=0.5)
        return fit(config, tmp_path / device, "").scalars

    host = fitted("cpu")
    assert on_the_device(partial(fitted, accelerator.NAME)) == pytest.approx(host, abs=1e-4)


def test_a_command_uses_the_device_that_it_is_given(tmp_path):
    folder, judge = str(write_model(tmp_path / "policy")), f"bt,model={classifiers.llama(tmp_path / 'judge')}"
    texts, rows = tmp_path / "texts.jsonl", [{"prompt": x, "responses": ["c", "d e"]} for x in ("ab", "b", "c")]
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    settings = parse(["--task", "symbols", "--oracle", "cyclic", "--policy", "tabular", "--agent", "sppo"]).settings
    assert best_response(settings, Training(1, 0.0, None, "cpu")).run.device == "cpu"

    def use(device):
        policy = (entrant := read_entrants([folder], str(texts), device, least=1)[0]).policy
        served = networks(serve._oracle(judge, None, device))
        assert {p.device.type for one in (policy, *served) for p in one.parameters()} == {device}
        measured = SampledGame(Evaluation(entrant.task, oracles.make("bt"), policy, 1, 2, 0, 0.0), {})
        assert measured.point("start", 0, policy).kl.device.type == "cpu"
        before = sum(accelerator.COSTS.launches.values())
        label(Options(judge, tmp_path / f"{device}.jsonl", responses=str(texts), device=device))
        assert (sum(accelerator.COSTS.launches.values()) > before) == (device == accelerator.NAME)

    use("cpu")
    on_the_device(partial(use, accelerator.NAME))


def trie_terms(policy):
    trie = Trie([(0, 0), (0, 1), (1,)])
    return trie.along(trie.next_logits(policy.log())[:, 0].nan_to_num(0, 0, 0))


def certified(solution):
    return solution.policy + solution.certificate[:, None]


def caveats(payoff, pairs):
    return torch.tensor(len(games.bradley_terry_caveats(payoff, pairs=pairs)))


GAME = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
GAMES = torch.stack([GAME, GAME.T])
POLICY, UNIFORM = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)
FIRST, SECOND = torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0])
ONE_PAIR = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
MEASURES = {
    "alpha_rank": lambda on: games.alpha_rank(on(GAME)),
    "best_of_pool": lambda on: lower_bounds.best_of_pool(on(GAME[None])),
    "best_response": lambda on: games.best_response(on(GAME), on(POLICY), on(UNIFORM), 0.1),
    "borda_regret": lambda on: games.borda_regret(on(GAME), on(FIRST), on(SECOND)),
    "borda_regret of two games": lambda on: games.borda_regret(on(GAMES), on(FIRST), on(SECOND), on(FIRST % 2)),
    "bradley_terry_caveats": lambda on: caveats(on(GAME), on(ONE_PAIR)),
    "bradley_terry_fit": lambda on: games.bradley_terry_fit(on(GAME)),
    "copeland_regret": lambda on: games.copeland_regret(on(GAME), on(FIRST), on(SECOND)),
    "cross_play": lambda on: games.cross_play(on(GAME), on(torch.stack([POLICY, UNIFORM]))),
    "duality_gap": lambda on: games.duality_gap(on(GAME), on(POLICY)),
    "elo": lambda on: games.elo(on(GAME)),
    "exploitability": lambda on: games.exploitability(on(GAME), on(POLICY)),
    "exploitability of a policy of the host": lambda on: games.exploitability(on(GAME), POLICY),
    "intransitivity": lambda on: games.intransitivity(on(GAME), on(POLICY)).curl_ratio,
    "kl_divergence": lambda on: games.kl_divergence(on(POLICY), on(UNIFORM)),
    "maximum_entropy_winner": lambda on: games.maximum_entropy_winner(on(GAME)).policy * on(POLICY),
    "nash_average": lambda on: games.nash_average(on(GAME)),
    "regularised_exploitability": lambda on: games.regularised_exploitability(on(GAME), on(POLICY), on(UNIFORM), 0.1),
    "regularised_nash": lambda on: games.regularised_nash(on(GAME), on(UNIFORM), 0.1).policy,
    "regularised_nash nearly without regularisation": lambda on: certified(
        games.regularised_nash(on(GAMES), on(UNIFORM), 0.005)
    ),
    "regularised_nash to a reference of the host": lambda on: games.regularised_nash(on(GAME), UNIFORM, 0.1).policy,
    "regularised_saddle": lambda on: games.regularised_saddle(on(GAME), on(UNIFORM), 0.1).policy,
    "regularised_saddle to a reference of the host": lambda on: games.regularised_saddle(on(GAME), UNIFORM, 0.1).policy,
    "soft_values": lambda on: games.soft_values([(0, 0), (0, 1), (1,)], on(UNIFORM), on(POLICY), 0.5),
    "tokens of a table": lambda on: trie_terms(on(POLICY)),
    "von_neumann_regret": lambda on: games.von_neumann_regret(on(GAME), on(FIRST), on(SECOND)),
    "von_neumann_winner": lambda on: games.von_neumann_winner(on(GAME)).policy,
}
NO_TENSORS = {"Intransitivity", "NotConvergedError", "Solution", "payoff_matrix", "queries_to"}


def test_every_measure_of_a_game_is_here():
    assert set(games.__all__) - NO_TENSORS <= MEASURES.keys()


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_of_a_game_is_that_of_the_cpu(measure):
    host = MEASURES[measure](lambda x: x)
    device = on_the_device(lambda: MEASURES[measure](lambda x: x.to(accelerator.NAME)).cpu())
    assert torch.allclose(device, host, atol=1e-8)


@pytest.mark.parametrize(("feedback", "largest_table"), [("outcome", duels_torch._LARGEST_TABLE), ("probability", 0)])
def test_duels_on_tensors_are_those_of_the_arrays(feedback, largest_table, monkeypatch):
    monkeypatch.setattr(duels_torch, "_LARGEST_TABLE", largest_table)  # 0: the oracle is asked about texts
    task = make_task("symbols", alphabet=3, length=3, prompts=4)
    oracle = oracles.make("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    arrays = TokenDuels(task, oracle, 6, feedback)
    arrays.seed(np.arange(6, dtype=np.uint64))
    arrays.reset()

    def play():
        tensors = TorchDuels(task, oracle, 6, feedback, device=accelerator.NAME)
        tensors.seed(np.arange(6, dtype=np.uint64))
        tensors.reset()
        rng, steps = np.random.default_rng(0), 0
        while steps < 4:
            tokens = rng.integers(0, arrays.rules.vocab_size, (6, 2))
            over, judged = arrays.step(tokens), tensors.step(torch.from_numpy(tokens).to(accelerator.NAME))
            assert over.tolist() == judged.tolist()
            assert arrays.rewards(over).tolist() == tensors.rewards(judged).tolist()
            assert arrays.masks().tolist() == tensors.masks().tolist()
            steps += 1
        state = tensors.get_state()
        assert {x.device.type for x in state.values()} == {accelerator.NAME}
        tensors.set_state({name: x.cpu() for name, x in state.items()})
        assert {x.device.type for x in tensors.get_state().values()} == {accelerator.NAME}

    on_the_device(play)


def test_duels_of_a_proposal_on_the_device_are_on_the_cpu():
    task = make_task("symbols", alphabet=2, length=2, prompts=2)
    oracle = oracles.make("cyclic", prompts=task.all_prompts, responses=task.response_texts)

    def play(device):
        arena = DuelArena(task, oracle, 2, "probability")
        weight = torch.full((2, 4), 0.25, device=device)
        ask = torch.ones(2, 4, 4, dtype=torch.bool, device=device)
        return arena.play(Proposal([list(task.responses)] * len(arena.reset()), left_weight=weight, ask=ask))

    duel, host = on_the_device(partial(play, accelerator.NAME)), play("cpu")
    for name in ("prob", "left_weight", "right_weight", "asked"):
        assert torch.equal(getattr(duel, name), getattr(host, name))
