"""Models in the conventions of published families: how a prompt is written and a turn ends."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from agents.policies.lm_config import HFConfig
from envs import Task
from envs.tasks.tokenizers import response_tokens
from preference_duel.keyed_random import Key
from preference_duel.types import Completion, Conversation
from tests.chat_models import FAMILIES, write_chat_model
from tests.conftest import with_a_fast_few

LIMIT = 6
PROMPTS = "how are you", "name a tree", "x", "why"


@pytest.fixture(scope="module", params=with_a_fast_few(FAMILIES, 2))
def family(request, tmp_path_factory):
    """One family's conventions, and a folder with a model that follows them."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    write_chat_model(folder, FAMILIES[request.param])
    return FAMILIES[request.param], folder


def policy_of(folder, **fields):
    config = HFConfig(str(folder), **fields)
    tokenizer = config.load_tokenizer()
    task = Task("text", PROMPTS, PROMPTS, tokenizer, 64, LIMIT, 0, response_tokens(tokenizer))
    return config.build(task=task)


def talk(*turns):
    return Conversation([{"role": role, "content": content} for role, content in turns])


def plain_greedy(policy, folder, prompt, ends=None):
    """The tokens of transformers' `generate`, which may write what the policy may; `ends` None: as the folder says."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([policy.tokenizer.prompt(prompt)])
    legal = policy.constraints.legal(torch.tensor([0]))[0]
    suppressed = (~legal).nonzero().flatten().tolist()
    with torch.no_grad():
        fields = {} if ends is None else {"eos_token_id": ends}
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LIMIT,
            suppress_tokens=suppressed, **fields,
        )  # fmt: skip
    return tuple(out[0, ids.shape[1] :].tolist())


def test_prompts_are_written_as_the_template_writes_them(family):
    of, folder = family
    tokenizer = HFConfig(str(folder)).load_tokenizer()
    talks = [talk(("user", "hi")), talk(("user", "hi"), ("assistant", "yes"), ("user", "why"))]
    if of.system:
        talks.append(talk(("system", "be brief"), ("user", "hi")))
    for conversation in talks:
        ids = tokenizer.prompt(conversation)
        if of.template:
            assert list(ids) == tokenizer.backend.apply_chat_template(
                list(conversation.messages), add_generation_prompt=True, return_dict=False
            )
        if of.bos:
            assert ids.count(tokenizer.backend.bos_token_id) == 1
    if of.template:
        assert tokenizer.prompt("hi") == tokenizer.prompt(talks[0])
    else:
        assert list(tokenizer.prompt("hi")) == tokenizer.backend("hi").input_ids


def test_every_token_that_ends_a_turn_ends_a_response(family):
    of, folder = family
    policy = policy_of(folder)
    ids = policy.tokenizer.backend.convert_tokens_to_ids([of.eos, of.closing, *of.ends])
    assert policy.tokenizer.end_ids == set(ids)
    rows, _ = policy.draw(PROMPTS, 200, Key(0))
    drawn = [y for row in rows for y in row]
    seen = {y.tokens[-1] for y in drawn if len(y.tokens) < LIMIT}
    assert seen == set(ids)
    for y in drawn:
        assert not set(ids) & set(y.tokens[:-1])
        assert not any(mark in y.text for mark in of.special)


def test_a_text_is_closed_as_the_template_closes_a_turn(family):
    of, folder = family
    policy = policy_of(folder)
    closing = policy.tokenizer.backend.convert_tokens_to_ids(of.closing)
    assert policy.tokens_of(Completion("ab")) == (*policy.tokenizer.encode("ab"), closing)
    assert policy.tokenizer.decode(policy.tokens_of(Completion("ab"))) == "ab"


def test_greedy_draws_are_those_of_generate(family):
    of, folder = family
    policy = policy_of(folder, top_k=1)
    unsaid = None if of.closing in of.ends else sorted(policy.tokenizer.end_ids)  # known from the template alone
    rows, _ = policy.draw(PROMPTS, 1, Key(0))
    for prompt, (y,) in zip(PROMPTS, rows, strict=True):
        assert y.tokens == plain_greedy(policy, folder, prompt, unsaid)


@torch.no_grad()
def test_log_probabilities_are_the_plain_models(family):
    _, folder = family
    policy, model = policy_of(folder), AutoModelForCausalLM.from_pretrained(folder)
    rows, _ = policy.draw(PROMPTS, 3, Key(1))
    ours, mask = policy.token_logprob(PROMPTS, rows)
    for b, prompt in enumerate(PROMPTS):
        for k, y in enumerate(rows[b]):
            ids = torch.tensor([[*policy.tokenizer.prompt(prompt), *y.tokens]])
            logits = model(ids).logits[0, -len(y.tokens) - 1 : -1].float()
            legal = policy.constraints.legal(torch.arange(len(y.tokens)))
            expected = logits.masked_fill(~legal, -torch.inf).log_softmax(-1)[range(len(y.tokens)), y.tokens]
            torch.testing.assert_close(ours[b, k][mask[b, k]], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("adapters", [{}, {"lora": True}])
def test_a_saved_policy_says_the_same_in_transformers(family, adapters, tmp_path):
    from agents.policies.lm_config import LoRAConfig

    _, folder = family
    fields = {"lora": LoRAConfig(rank=2, targets="embed_in,embed_tokens,embed_out,lm_head")} if adapters else {}
    policy = policy_of(folder, top_k=1, **fields)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    policy.save(tmp_path / "saved")
    rows, _ = policy.draw(PROMPTS, 1, Key(0))
    for prompt, (y,) in zip(PROMPTS, rows, strict=True):
        assert y.tokens == plain_greedy(policy, tmp_path / "saved", prompt)
    again = policy_of(tmp_path / "saved", top_k=1)
    assert again.tokenizer.end_ids == policy.tokenizer.end_ids
    assert [[y.tokens for y in row] for row in again.draw(PROMPTS, 1, Key(0))[0]] == [
        [y.tokens for y in r] for r in rows
    ]
    head, inner = again.model.get_output_embeddings().weight, again.model.get_input_embeddings().weight
    assert torch.equal(head, inner) or not again.model.config.tie_word_embeddings


def test_thinking_is_switched_as_the_template_knows_it(tmp_path):
    write_chat_model(tmp_path, FAMILIES["qwen 3"])
    ids = {thinking: HFConfig(str(tmp_path), thinking=thinking).load_tokenizer() for thinking in (None, True, False)}
    texts = {thinking: t.backend.decode(t.prompt("hi")) for thinking, t in ids.items()}
    assert texts[None] == texts[True] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert texts[False] == texts[None] + "<think>\n\n</think>\n\n"


def test_a_refused_role_is_told_in_the_templates_words(tmp_path):
    write_chat_model(tmp_path, FAMILIES["gemma 2"])
    tokenizer = HFConfig(str(tmp_path)).load_tokenizer()
    with pytest.raises(ValueError, match="roles system, user: System role not supported"):
        tokenizer.prompt(talk(("system", "be brief"), ("user", "hi")))
