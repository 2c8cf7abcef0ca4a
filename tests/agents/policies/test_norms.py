import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Olmo2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from agents.policies.norms import RMSNorm, exchange_norms


def model_of(kind):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = kind(**sizes, num_hidden_layers=1, vocab_size=11, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    return model


def exchanged(model):
    return sum(isinstance(part, RMSNorm) for part in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("kind", "norms"), [(LlamaConfig, 3), (Qwen3Config, 5)])
def test_exchanged_norms_compute_the_same(kind, norms, dtype, autocast):
    theirs = model_of(kind).to(dtype)
    ours = copy.deepcopy(theirs)
    exchange_norms(ours)
    assert exchanged(ours) == norms
    assert list(ours.state_dict()) == list(theirs.state_dict())
    found = []
    for model in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(torch.tensor([[3, 4, 5, 6]])).logits
        logits.float().square().mean().backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))


@pytest.mark.parametrize("kind", [GemmaConfig, Olmo2Config])
def test_norms_that_round_otherwise_stay(kind):
    model = model_of(kind)
    exchange_norms(model)
    assert exchanged(model) == 0


class Gated(LlamaRMSNorm):
    def forward(self, hidden_states, gate=None):
        return super().forward(hidden_states if gate is None else hidden_states * gate)


def test_norms_that_take_a_gate_stay():
    model = nn.ModuleDict({"gated": Gated(8), "plain": LlamaRMSNorm(8)})
    exchange_norms(model)
    assert [type(part) for part in model.values()] == [Gated, RMSNorm]
