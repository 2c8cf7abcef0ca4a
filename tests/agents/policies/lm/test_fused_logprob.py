"""Log-probabilities straight from hidden states: what whole logits give, in value and gradient, with little held."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from agents.policies.lm import fused_logprob, generation
from agents.policies.lm.fused_logprob import fused, is_plain
from agents.policies.lm.generation import Sharpening
from preference_duel.keyed_random import Key
from tests.agents.policies.lm.test_hf_policy import PROMPTS, policy_of, text_task, tiny_model, write_tokenizer

V, M, D = 13, 37, 5
LEGAL = torch.arange(V) != 4


@pytest.mark.parametrize(
    "sharpening", [Sharpening(), Sharpening(0.7), Sharpening(1.3, top_k=6), Sharpening(0.5, 0, 0.9)]
)
def test_values_and_gradients_are_those_of_whole_logits(sharpening, monkeypatch):
    monkeypatch.setattr(fused_logprob, "_CELLS", {"cpu": 4 * V})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=generator, requires_grad=True)
    head = torch.nn.Linear(D, V, bias=False)
    scores = sharpening.scores(head(hidden), LEGAL[None])
    written = torch.distributions.Categorical(logits=scores.detach()).sample()
    pull = torch.randn(M, generator=generator)
    expected = scores.gather(1, written[:, None]).squeeze(1) - scores.logsumexp(-1)
    wanted = torch.autograd.grad(expected @ pull, [hidden, head.weight])
    held = []

    def score(logits, rows):
        held.append(logits.numel())
        return sharpening.scores(logits, LEGAL[None], written[rows])

    with fused(head, written, score, sharpening.temperature):
        found = head(hidden)[:, 0]
    assert head(hidden).shape == (M, V)
    assert torch.allclose(found, expected, atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(found @ pull, [hidden, head.weight]), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert max(held) <= 4 * V


def test_a_frozen_head_gets_no_gradient():
    hidden, head = torch.randn(M, D, requires_grad=True), torch.nn.Linear(D, V, bias=False).requires_grad_(False)
    with fused(head, torch.zeros(M, dtype=torch.long), lambda logits, rows: logits.float(), 1.0):
        head(hidden).sum().backward()
    assert head.weight.grad is None
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
    assert not is_plain(policy.model)
    assert is_plain(tiny_model())
    said, _ = policy.draw(PROMPTS, 3, Key(0))
    scores = policy.scores([PROMPTS[0]], [said[0][0].tokens])
    found = policy.token_logprob(PROMPTS, said)[0][0, 0, : len(said[0][0].tokens)]
    assert torch.allclose(found, generation.chosen(scores, [said[0][0].tokens]), atol=1e-5)


def test_learning_in_small_passes_changes_no_gradient(tmp_path):
    write_tokenizer(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    whole, parts = (policy_of(tmp_path, text_task(tmp_path), micro_tokens=size) for size in (10_000, 20))
    said, _ = whole.draw(PROMPTS, 4, Key(0))
    for policy in (whole, parts):
        value = policy.logprob(PROMPTS, said)
        (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()
    for mine, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert len(whole.parts(PROMPTS, said)) == 1
    assert sorted(b for part in parts.parts(PROMPTS, said) for b in part) == list(range(len(PROMPTS)))
    assert len(parts.parts(PROMPTS, said)) > 1


def test_groups_hold_no_more_than_they_may_and_little_padding():
    lengths = [5, 5, 6, 7, 20, 21, 22, 90]
    groups = generation.groups(lengths, 42)
    assert sorted(i for group in groups for i in group) == list(range(8))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= 42
        assert longest <= 1.25 * min(lengths[i] for i in group)
    assert generation.packed([3, 9, 4, 1], 8) == [[3, 0, 2], [1]]


def test_computing_layers_again_changes_no_gradient(tmp_path):
    write_tokenizer(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    plain, again = (policy_of(tmp_path, text_task(tmp_path), checkpointing=value) for value in (False, True))
    twin = again.frozen().requires_grad_(True)
    said, _ = plain.draw(PROMPTS, 4, Key(0))
    assert again.draw(PROMPTS, 4, Key(0))[0] == said
    held = []
    for policy in (plain, again, twin):
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.add(t.data_ptr()) or t, lambda t: t):
            policy.logprob(PROMPTS, said).sum().backward()
        held.append(len(kept))
    for wanted, *found in zip(plain.parameters(), again.parameters(), twin.parameters(), strict=True):
        assert all(torch.allclose(wanted.grad, one.grad, atol=1e-6) for one in found)
    assert held[1] < held[0] / 2
    assert held[2] == held[1]
