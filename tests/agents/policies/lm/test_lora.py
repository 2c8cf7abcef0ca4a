"""Adapters: the start is the model itself, only they are trained, copies share the rest, saved models are plain."""

import copy
import json
from functools import partial

import pytest
import torch
from peft.tuners.lora import Linear
from safetensors.torch import load_file

from agents import make
from agents.check import check_agent
from agents.policies.lm.adapted_linear import AdaptedLinear
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.scoring import chosen
from agents.policies.lm_config import LoRAConfig, TinyConfig
from agents.policies.tensors import tensors
from envs import DuelArena, make_task
from oracles import make as make_oracle
from preference_duel.keyed_random import Key
from runners.duel import main
from runners.run.checkpoint import steps
from tests.tiny_models import (
    PROMPTS,
    policy_of,
    text_task,
)

ADAPTERS = LoRAConfig(rank=2, alpha=8.0)


def shaken(policy, seed=0):
    """Gives every adapter's second half, which starts at 0, some weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def test_the_start_is_the_model_and_adapters_alone_learn(folder):
    plain, adapted = policy_of(folder), policy_of(folder, lora=ADAPTERS)
    drawn, _ = plain.draw(PROMPTS, 3, Key(0))
    assert torch.equal(plain.logprob(PROMPTS, drawn), adapted.logprob(PROMPTS, drawn))
    assert adapted.draw(PROMPTS, 3, Key(0))[0] == drawn
    learning = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 7 * 2  # seven linear layers in each of two blocks, two halves each
    assert all("lora_" in name for name in learning)
    adapted.logprob(PROMPTS, drawn).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in adapted.parameters())


def test_an_adapted_layer_under_autocast_is_that_of_peft(folder):
    policy = shaken(policy_of(folder, lora=ADAPTERS, dtype="bfloat16", compute="bfloat16"))
    layer = policy.model.model.layers[0].mlp.down_proj
    assert isinstance(layer, AdaptedLinear)
    x = torch.randn(2, 3, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    inputs = x, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    found = []
    for forward in (layer, partial(Linear.forward, layer)):
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(x)
        found.append([output, *torch.autograd.grad(output.float().square().sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours.float(), theirs.float(), rtol=0.03, atol=0.03 * theirs.abs().max().item())


def test_copies_share_what_never_learns_and_nothing_else(folder):
    policy = shaken(policy_of(folder, lora=ADAPTERS))
    for twin in (policy.frozen(), copy.deepcopy(policy)):
        for (name, mine), theirs in zip(policy.named_parameters(), twin.parameters(), strict=True):
            assert (mine.data_ptr() == theirs.data_ptr()) == ("lora_" not in name)
            assert torch.equal(mine, theirs)
    plain = policy_of(folder)
    assert not {p.data_ptr() for p in plain.parameters()} & {p.data_ptr() for p in plain.frozen().parameters()}


def test_means_and_states_are_those_of_the_adapters(folder):
    one, other = (shaken(policy_of(folder, lora=ADAPTERS), seed) for seed in (1, 2))
    base = [p.clone() for name, p in one.named_parameters() if "lora_" not in name]
    mean = copy.deepcopy(one)
    mean.blend(other, 0.25)
    for (name, m), a, b in zip(mean.named_parameters(), one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(m, 0.75 * a + 0.25 * b if "lora_" in name else a, atol=1e-6)
    assert all(
        torch.equal(a, p)
        for a, p in zip(base, (p for n, p in mean.named_parameters() if "lora_" not in n), strict=True)
    )
    assert all("lora_" in name for name in tensors(one))
    assert len(tensors(one)) == 28


def test_what_is_saved_is_a_plain_model_that_says_the_same(folder, tmp_path):
    policy = shaken(policy_of(folder, lora=ADAPTERS))
    policy.save(tmp_path)
    assert not any("lora" in name or "base_layer" in name for name in load_file(tmp_path / "model.safetensors"))
    again = HFPolicy(tmp_path, text_task(folder))
    drawn, _ = policy.draw(PROMPTS, 3, Key(0))
    assert torch.allclose(again.logprob(PROMPTS, drawn), policy.logprob(PROMPTS, drawn), atol=1e-4)
    assert not torch.allclose(policy_of(folder).logprob(PROMPTS, drawn), policy.logprob(PROMPTS, drawn), atol=0.1)


SLOWEST = [pytest.param(name, marks=pytest.mark.slow) for name in ("ipo", "dpo", "inpo", "nash_md", "rlhf", "oelhf")]


@pytest.mark.parametrize("name", ["sppo", "spo", *SLOWEST])
def test_agents_keep_their_contract(name):
    task = make_task("symbols", alphabet=3, length=2, prompts=2)
    oracle = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    policy = TinyConfig(lora=ADAPTERS).build(task=task)
    before = [p.clone() for n, p in policy.named_parameters() if "lora_" not in n]
    check_agent(make(name, policy=policy), DuelArena(task, oracle, 2))
    after = [p for n, p in policy.named_parameters() if "lora_" not in n]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_a_run_with_adapters_learns_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = "--agent ipo --policy.lora.rank 4 --run.batch_size 4 --run.eval_prompts 4 --run.threads 1"
    arguments += " --run.steps 4 --run.save_every 2 --run.eval_every 2 --run.keep 3"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    assert main(f"{arguments} --run.steps 2 --run.dir half".split()) == 0
    assert main(["--resume", "half", "--run.steps", "4"]) == 0
    assert steps(tmp_path / "half")[-1] == 4
    states = [load_file(tmp_path / run / "step-4" / "state.safetensors") for run in ("whole", "half")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(states[0][name].abs().sum() > 0 for name in states[0] if "lora_B" in name)
    whole = sum(tensor.numel() for tensor in load_file(tmp_path / "whole/step-4/policy/model.safetensors").values())
    kept = sum(states[0][name].numel() for name in states[0] if name.startswith("agent.policy"))
    assert kept < 0.1 * whole
    assert json.loads((tmp_path / "whole/config.json").read_text())["policy"]["lora"]["rank"] == 4


def test_the_seed_initialises_the_adapters(folder):
    first = [first_halves(policy_of(folder, lora=ADAPTERS, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def first_halves(policy):
    return torch.cat([p.flatten() for name, p in policy.named_parameters() if "lora_A" in name])


def test_what_never_learns_can_be_bfloat16(folder, tmp_path):
    policy = shaken(policy_of(folder, lora=ADAPTERS, dtype="bfloat16"))
    kinds = {name: parameter.dtype for name, parameter in policy.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "lora_" not in name} == {torch.bfloat16}
    drawn, _ = policy.draw(PROMPTS, 2, Key(0))
    result = policy.logprob(PROMPTS, drawn)
    assert result.dtype == torch.float32
    result.sum().backward()
    whole = shaken(policy_of(folder, lora=ADAPTERS)).logprob(PROMPTS, drawn)
    assert torch.allclose(result, whole, atol=0.3)
    policy.save(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"float32 if all weights are trained.* with lora\.rank 0"):
        policy_of(folder, dtype="bfloat16")


def test_bad_input_is_named(folder):
    for fields, message in [
        ({"rank": -1}, r"lora\.rank must be at least 0, got -1"),
        ({"alpha": 0.0}, r"lora\.alpha must be positive, got 0.0"),
        ({"targets": ""}, r"lora\.targets must not be empty, got ''"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoRAConfig(**fields)
    with pytest.raises(
        ValueError, match=r"no layer is called 'qproj' \(lora.targets\); the linear layers are .*q_proj"
    ):
        policy_of(folder, lora=LoRAConfig(rank=2, targets="qproj"))
    some = policy_of(folder, lora=LoRAConfig(rank=2, targets="q_proj,v_proj"))
    assert sum(parameter.requires_grad for parameter in some.parameters()) == 2 * 2 * 2


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_of_the_output_layer_counts(folder):
    policy = shaken(policy_of(folder, lora=LoRAConfig(rank=2, targets="lm_head")))
    drawn, _ = policy.draw(PROMPTS, 3, Key(0))
    whole = [y.tokens for row in drawn for y in row]
    prompts = [x for x, row in zip(PROMPTS, drawn, strict=True) for _ in row]
    flat = torch.tensor([token for row in whole for token in row])
    result, mask = policy.token_logprob(PROMPTS, drawn)
    assert torch.allclose(result[mask], chosen(policy.logits(prompts, whole), flat), atol=1e-5)
    result.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in policy.parameters() if p.requires_grad)
