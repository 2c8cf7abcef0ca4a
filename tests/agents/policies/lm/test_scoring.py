"""Log-probabilities from hidden states: values and gradients of whole logits, little memory, a short way."""

import inspect
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from agents.policies.lm import fused_logprob, scoring
from agents.policies.lm.batching import groups, packed
from agents.policies.lm.generation import SamplingParams
from agents.policies.lm_config import LoRAConfig
from preference_duel.keyed_random import Key
from tests.conftest import with_a_fast_few
from tests.tiny_models import (
    PROMPTS,
    policy_of,
    text_task,
    tiny_model,
    write_model,
    write_tokenizer,
)

V, M, D = 13, 37, 5
LEGAL = torch.arange(V) != 4


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(0.7), SamplingParams(1.3, top_k=6), SamplingParams(0.5, 0, 0.9)]
)
def test_values_and_gradients_are_those_of_whole_logits(sampling, monkeypatch):
    monkeypatch.setattr(fused_logprob, "_CPU_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=generator, requires_grad=True)
    head = torch.nn.Linear(D, V, bias=False)
    scores = sampling.processed(head(hidden), LEGAL[None])
    written = torch.distributions.Categorical(logits=scores.detach()).sample()
    pull = torch.randn(M, generator=generator)
    expected = scores.gather(1, written[:, None]).squeeze(1) - scores.logsumexp(-1)
    wanted = torch.autograd.grad(expected @ pull, [hidden, head.weight])
    held = []

    def process(logits, rows):
        held.append(logits.numel())
        return sampling.processed(logits, LEGAL[None], written[rows])

    result = fused_logprob.fused_logprob(hidden, head.weight, written, process, sampling.temperature)
    assert torch.allclose(result, expected, atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(result @ pull, [hidden, head.weight]), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert max(held) <= 4 * V


def test_a_large_vocabulary_is_read_once_for_many_rows():
    rows = []
    hidden, weight, tokens = torch.randn(300, 1), torch.randn(2**16, 1), torch.zeros(300, dtype=torch.long)
    fused_logprob.fused_logprob(
        hidden, weight, tokens, lambda logits, part: rows.append(len(logits)) or logits.float(), 1.0
    )
    assert rows == [128, 128, 44]


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, tokens = torch.randn(M, D, requires_grad=True), torch.randn(V, D), torch.zeros(M, dtype=torch.long)
    fused_logprob.fused_logprob(hidden, weight, tokens, lambda logits, _: logits.float(), 1.0).sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_a_model_that_caps_its_logits_is_read_whole(tmp_path):
    write_tokenizer(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma2Config(
        vocab_size=tiny_model().config.vocab_size, num_key_value_heads=2, head_dim=8, initializer_range=2.0,
        max_position_embeddings=64, final_logit_softcapping=0.5, **sizes,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    policy = policy_of(tmp_path, text_task(tmp_path))
    assert not scoring.is_plain(policy.model)
    drawn, _ = policy.draw(PROMPTS, 3, Key(0))
    scores = policy.logits([PROMPTS[0]], [drawn[0][0].tokens])
    result = policy.token_logprob(PROMPTS, drawn)[0][0, 0, : len(drawn[0][0].tokens)]
    assert torch.allclose(result, scoring.chosen(scores, torch.tensor(drawn[0][0].tokens)), atol=1e-5)


def test_a_matrix_times_hidden_states_is_recognised():
    plain = tiny_model().eval()
    assert scoring.is_plain(plain)
    assert scoring.is_plain(plain.to(torch.bfloat16))
    assert not scoring.is_plain(tiny_model("gemma2").eval())
    assert scoring.is_plain(tiny_model("gemma2", final_logit_softcapping=None).eval())
    plain.lm_head.bias = torch.nn.Parameter(torch.zeros(14))
    assert not scoring.is_plain(plain)
    scaled = GraniteConfig(vocab_size=14, hidden_size=16, intermediate_size=16, num_hidden_layers=1, logits_scaling=1.5)
    assert not scoring.is_plain(GraniteForCausalLM(scaled).eval())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "fields", with_a_fast_few([{}, {"checkpointing": True}, {"micro_tokens": 20}, {"lora": LoRAConfig(rank=2)}], 3)
)
def test_at_most_four_calls_lead_to_the_model_without_hooks(tmp_path, kind, fields, monkeypatch):
    write_model(tmp_path, kind)
    policy = policy_of(tmp_path, text_task(tmp_path), **fields)
    drawn, _ = policy.draw(PROMPTS, 4, Key(0))
    source, logprob, ways = str(Path(scoring.__file__).parents[2]), type(policy).logprob.__code__, []
    layers = type(policy.model.base_model)
    forward = layers.forward

    def watched(self, *arguments, **named):
        codes = [info.frame.f_code for info in inspect.stack(0)[1:]]
        if logprob in codes:  # else a pass that is repeated for its gradient
            between = codes[: codes.index(logprob)]
            ways.append([code.co_name for code in between if code.co_filename.startswith(source)])
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in policy._root.modules())
        assert all("forward" not in vars(part) for part in (policy.model, policy.model.get_output_embeddings()))
        return forward(self, *arguments, **named)

    monkeypatch.setattr(layers, "forward", watched)
    policy.logprob(PROMPTS, drawn).sum().backward()
    with torch.no_grad():
        policy.logprob(PROMPTS, drawn)
    assert ways
    assert all(len(way) <= 4 for way in ways), ways


def test_capped_logits_of_prompts_are_left_out_if_the_model_can(tmp_path):
    write_model(tmp_path, "gemma2")
    policy = policy_of(tmp_path, text_task(tmp_path))
    drawn, _ = policy.draw(PROMPTS, 4, Key(0))
    texts = [policy.tokenizer.prompt(x) for x in PROMPTS], [row[0].tokens for row in drawn]
    texts = scoring.Texts.of(*texts, policy.device)
    every = scoring.logits_at(policy.model, texts, False, False, False)
    assert torch.equal(scoring.logits_at(policy.model, texts, False, True, False), every)
    assert len(every) == sum(len(row[0].tokens) for row in drawn)


def test_learning_in_small_passes_changes_no_gradient(tmp_path):
    write_model(tmp_path)
    whole, parts = (policy_of(tmp_path, text_task(tmp_path), micro_tokens=size) for size in (10_000, 20))
    drawn, _ = whole.draw(PROMPTS, 4, Key(0))
    for policy in (whole, parts):
        value = policy.logprob(PROMPTS, drawn)
        (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()
    for mine, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert len(whole.parts(PROMPTS, drawn)) == 1
    assert sorted(b for part in parts.parts(PROMPTS, drawn) for b in part) == list(range(len(PROMPTS)))
    assert len(parts.parts(PROMPTS, drawn)) > 1


@pytest.mark.parametrize(("lengths", "most"), [([5, 5, 6, 7, 20, 21, 22, 90], 42), ([9, 30, 10, 11, 12, 31, 9, 14], 3)])
def test_groups_hold_no_more_than_they_may_and_little_padding(lengths, most):
    grouped = groups(lengths, most)
    assert sorted(i for group in grouped for i in group) == list(range(8))
    for group in grouped:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= most
        assert longest <= 1.25 * min(lengths[i] for i in group)
    assert packed([3, 9, 4, 1], 8) == [[3, 0, 2], [1]]


@pytest.mark.parametrize(("wanted", "large", "again"), [(None, True, True), (None, False, False), (False, True, False)])
def test_large_models_compute_layers_again_unless_told_otherwise(tmp_path, monkeypatch, wanted, large, again):
    if large:
        monkeypatch.setattr("agents.policies.lm.hf_policy._LARGE", 1)
    policy = policy_of(write_model(tmp_path), checkpointing=wanted)
    assert ("forward" in vars(policy.model.model.layers[0])) == again


def test_computing_layers_again_changes_no_gradient(tmp_path):
    write_model(tmp_path)
    plain, again = (policy_of(tmp_path, text_task(tmp_path), checkpointing=value) for value in (False, True))
    twin = again.frozen().requires_grad_(True)
    drawn, _ = plain.draw(PROMPTS, 4, Key(0))
    assert again.draw(PROMPTS, 4, Key(0))[0] == drawn
    held = []
    for policy in (plain, again, twin):
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.add(t.data_ptr()) or t, lambda t: t):
            policy.logprob(PROMPTS, drawn).sum().backward()
        held.append(len(kept))
    for wanted, *result in zip(plain.parameters(), again.parameters(), twin.parameters(), strict=True):
        assert all(torch.allclose(wanted.grad, one.grad, atol=1e-6) for one in result)
    assert held[1] < held[0] / 2
    assert held[2] == held[1]
